"""Pair builders: from the scored responses of each prompt to candidate pairs (stage *pair*, second half).

A builder takes a `ResponsePool` and returns a `Pairing`: never a pair across prompts, and for every response that
is in no pair exactly one reason. Best-versus-worst is the released recipe (chosen = argmax, rejected = argmin of
the reward); unlike it, prompts whose best and worst tie, or say the same, give no pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfplay.selection.arrays import Bools, Ints, Reasons, starts_of_runs
from selfplay.selection.reasons import (
    IDENTICAL_RESPONSES,
    NOT_EXTREME,
    PROMPT_HAS_TOO_FEW_RESPONSES,
    ZERO_MARGIN,
    give_reason,
)
from selfplay.selection.responses import ResponsePool


@dataclass(frozen=True, slots=True)
class Pairing:
    """P pairs out of R responses. `chosen_P` and `rejected_P` are rows of the pool; `reason_R` is None exactly for the
    responses that are in a pair."""

    chosen_P: Ints
    rejected_P: Ints
    reason_R: Reasons


def best_worst(pool: ResponsePool) -> Pairing:
    """One pair a prompt: its usable response of highest reward against that of lowest.

    Equal rewards are told apart by `response_index`, the lower one first, for the best as for the worst. A prompt
    gives no pair if it has fewer than two usable responses, if these all have the same text, if best and worst have
    the same reward, or if best and worst have the same text (a noisy reward gave one text two rewards). Pairs come
    in order of `prompt_R`.
    """
    usable = np.flatnonzero(pool.usable_R)
    # Rows sorted into one block a prompt, by response index inside it, so that "first" means "lowest response
    # index".
    row = usable[np.lexsort((pool.response_index_R[usable], pool.prompt_R[usable]))]
    if not len(row):
        return Pairing(row, row, pool.reason_R.copy())
    start_B = starts_of_runs(pool.prompt_R[row])
    size_B = np.diff(start_B, append=len(row))
    block = np.repeat(np.arange(len(start_B)), size_B)

    rewards, text = pool.rewards_R[row], pool.text_R[row]
    highest_B, lowest_B = np.maximum.reduceat(rewards, start_B), np.minimum.reduceat(rewards, start_B)
    best_B = _first_in_block(rewards == highest_B[block], block)
    worst_B = _first_in_block(rewards == lowest_B[block], block)

    too_few_B = size_B < 2
    same_text_B = np.logical_and.reduceat(text == text[start_B][block], start_B)
    zero_margin_B = highest_B == lowest_B
    same_pair_B = text[best_B] == text[worst_B]
    paired_B = ~(too_few_B | same_text_B | zero_margin_B | same_pair_B)

    extreme = np.zeros(len(row), dtype=np.bool_)
    extreme[best_B] = extreme[worst_B] = True
    reason: Reasons = np.full(len(row), None, dtype=object)
    reason = give_reason(reason, too_few_B[block], PROMPT_HAS_TOO_FEW_RESPONSES)
    reason = give_reason(reason, same_text_B[block], IDENTICAL_RESPONSES)
    reason = give_reason(reason, zero_margin_B[block], ZERO_MARGIN)
    reason = give_reason(reason, same_pair_B[block] & extreme, IDENTICAL_RESPONSES)
    reason = give_reason(reason, ~extreme, NOT_EXTREME)
    reason_R = pool.reason_R.copy()
    reason_R[row] = reason
    return Pairing(row[best_B[paired_B]], row[worst_B[paired_B]], reason_R)


def _first_in_block(hit: Bools, block: Ints) -> Ints:
    """Position of the first hit of each block. Every block has one, and blocks are contiguous."""
    hits = np.flatnonzero(hit)
    return hits[starts_of_runs(block[hits])]
