"""Pair building as one pure call: usable responses, builder, filters, cap; and one reason for every response in no pair.

Unlike the released recipe (chosen = argmax, rejected = argmin of the reward), prompts whose best and worst tie, or say the
same, give no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selfplay.core.outcomes import LengthFit
from selfplay.selection.arrays import Bools, Floats, Ints, run_starts
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.blocks import Blocks, blocks_of, chance_of
from selfplay.selection.pairing.builders import Chance, Positions, candidates
from selfplay.selection.pairing.filters import ORDER, PASSED, Candidates, Levels, levels
from selfplay.selection.pairing.length_penalty import fit_length_penalty
from selfplay.selection.pairing.similarity import similarities
from selfplay.selection.reasons import (
    GAP_TOO_SMALL,
    IDENTICAL_RESPONSES,
    NOT_EXTREME,
    NOT_PICKED,
    OVER_MAX_PER_PROMPT,
    PROMPT_HAS_TOO_FEW_RESPONSES,
    ZERO_MARGIN,
    Reasons,
    give_reason,
    is_free,
)
from selfplay.selection.responses import ResponsePool, faults


@dataclass(frozen=True, slots=True)
class Pairing:
    """P pairs out of R responses, by prompt and then by the response indices of chosen and rejected.

    `chosen_P` and `rejected_P` are rows of the pool; `reason_R` is None exactly for the responses that are in a pair.
    `reward_chosen_P` and `reward_rejected_P` are what the pairs were built by: the pool's rewards, less `length_penalty`
    times the number of tokens; chosen > rejected always. Mean and (population) std are of the same rewards, over the
    usable responses of the pair's prompt. `fit` says how the penalty was found, None where it was given.
    """

    chosen_P: Ints
    rejected_P: Ints
    reward_chosen_P: Floats
    reward_rejected_P: Floats
    prompt_reward_mean_P: Floats
    prompt_reward_std_P: Floats
    reason_R: Reasons
    length_penalty: float = 0.0
    fit: LengthFit | None = None


def build_pairs(pool: ResponsePool, rules: PairRules, seed: int) -> Pairing:
    """The pairs of a pool. `seed` decides what is random.

    Every response in no pair gets one reason. First what is wrong with it (see `responses.faults`), then what is wrong with
    all of its prompt's usable responses: too few, identical, of equal reward, or within `min_gap`. Otherwise that of the
    filter that took its pairs out (of several pairs, the one that came furthest, in the order of `filters.ORDER`), or that
    the builder took others. Of more than `max_per_prompt` pairs those of the largest explicit margin stay, among equals
    those of the lowest chosen and then rejected index. Raises ValueError for rules that need lengths the pool does not have.
    """
    reason_R = faults(pool, allow_truncated=rules.allow_truncated)
    if rules.needs_lengths() and pool.num_tokens_R is None:
        raise ValueError("max_length_gap and length_penalty need num_tokens of the responses")
    usable = blocks_of(pool, is_free(reason_R))
    too_few_B = usable.size_B < 2
    same_text_B = _same_text(usable)
    reason_R = give_reason(reason_R, _rows(pool, usable, too_few_B), PROMPT_HAS_TOO_FEW_RESPONSES)
    reason_R = give_reason(reason_R, _rows(pool, usable, same_text_B), IDENTICAL_RESPONSES)

    blocks = usable.of_blocks(~(too_few_B | same_text_B))
    del usable  # as large as `blocks`
    random = rules.build in ("random_pair", "best_random")
    chance_N = chance_of(pool, blocks, seed) if random else np.zeros(len(blocks.row_N), dtype=np.uint64)
    fit = _fit(blocks, rules, chance_N) if rules.length_penalty == "auto" else None
    penalty = fit.penalty if fit is not None else rules.length_penalty
    assert not isinstance(penalty, str)
    blocks = penalized(blocks, penalty)
    chosen, rejected, level_N = _build(blocks, rules, chance_N, pool.texts)

    spread_B = blocks.highest_B() - blocks.lowest_B()
    reason_R = give_reason(reason_R, _rows(pool, blocks, spread_B == 0), ZERO_MARGIN)
    if rules.min_gap > 0:
        reason_R = give_reason(reason_R, _rows(pool, blocks, spread_B <= rules.min_gap), GAP_TOO_SMALL)
    for level, name in enumerate(ORDER):
        reason_R = give_reason(reason_R, _mask(pool, blocks.row_N[level_N == level]), name)
    others = NOT_EXTREME if rules.build == "best_worst" else NOT_PICKED
    reason_R = give_reason(reason_R, _mask(pool, blocks.row_N[level_N < 0]), others)

    mean_B, std_B = blocks.mean_and_std_B()
    block_P = blocks.block_N[chosen]
    return Pairing(
        chosen_P=blocks.row_N[chosen],
        rejected_P=blocks.row_N[rejected],
        reward_chosen_P=blocks.reward_N[chosen],
        reward_rejected_P=blocks.reward_N[rejected],
        prompt_reward_mean_P=mean_B[block_P],
        prompt_reward_std_P=std_B[block_P],
        reason_R=reason_R,
        length_penalty=penalty,
        fit=fit,
    )


def penalized(blocks: Blocks, penalty: float) -> Blocks:
    """The blocks with `penalty` off the reward for each token."""
    if penalty == 0:
        return blocks
    assert blocks.num_tokens_N is not None  # build_pairs has checked it
    return replace(blocks, reward_N=blocks.reward_N - penalty * blocks.num_tokens_N)


def _build(
    blocks: Blocks, rules: PairRules, chance_N: Chance, texts: Sequence[str] | None
) -> tuple[Ints, Ints, Levels]:
    """Positions of chosen and rejected of the pairs that stay, sorted; and how far the best pair of each response came (see
    `filters.levels`; -1 where it was in none). Without `texts` the similarity is not looked at."""
    level_N = np.full(len(blocks.row_N), -1, dtype=np.int8)
    if texts is None:
        rules = replace(rules, max_similarity=1.0)
    stay: list[Positions] = []
    for chosen, rejected in candidates(blocks, rules, chance_N):
        level_P = levels(_looked_at(blocks, chosen, rejected, texts), rules, len(chosen))
        if rules.max_per_prompt is not None:
            _cap(blocks, chosen, rejected, level_P, rules.max_per_prompt)
        for side in (chosen, rejected):
            np.maximum.at(level_N, side, level_P)
        passed_P = level_P == PASSED
        stay.append((chosen[passed_P], rejected[passed_P]))
    none = np.empty(0, dtype=np.int64)
    chosen = np.concatenate([none, *(pair[0] for pair in stay)])
    rejected = np.concatenate([none, *(pair[1] for pair in stay)])
    # positions are sorted by prompt and index, so this is the order of the pairs, whatever the parts were
    order = np.lexsort((rejected, chosen))
    return chosen[order], rejected[order], level_N


def _looked_at(blocks: Blocks, chosen: Ints, rejected: Ints, texts: Sequence[str] | None) -> Candidates:
    tokens = blocks.num_tokens_N

    def similarity(left: Ints) -> Floats:
        assert texts is not None  # otherwise the rule is off
        return similarities(texts, blocks.row_N[chosen[left]], blocks.row_N[rejected[left]])

    return Candidates(
        identical_P=blocks.text_N[chosen] == blocks.text_N[rejected],
        reward_chosen_P=blocks.reward_N[chosen],
        reward_rejected_P=blocks.reward_N[rejected],
        num_tokens_chosen_P=tokens[chosen] if tokens is not None else None,
        num_tokens_rejected_P=tokens[rejected] if tokens is not None else None,
        similarity=similarity,
    )


def _cap(blocks: Blocks, chosen: Ints, rejected: Ints, level_P: Levels, most: int) -> None:
    """Take out of each block all passed pairs but the `most` of the largest margin. All pairs of a block are here, and each
    block has as many of them."""
    margin_P = np.where(level_P == PASSED, blocks.reward_N[chosen] - blocks.reward_N[rejected], -np.inf)
    num_blocks = len(run_starts(blocks.block_N[chosen]))
    margin_BM = margin_P.reshape(num_blocks, -1)
    if margin_BM.shape[1] <= most:
        return
    # only what is as good as the last one to stay needs to be sorted
    least_B = np.partition(margin_BM, -most, axis=1)[:, -most]
    level_P[((margin_BM < least_B[:, None]) & (margin_BM > -np.inf)).ravel()] = ORDER.index(OVER_MAX_PER_PROMPT)
    left = np.flatnonzero(level_P == PASSED)
    chosen, rejected, block = chosen[left], rejected[left], blocks.block_N[chosen[left]]
    order = np.lexsort((rejected, chosen, -margin_P[left], block))
    start = run_starts(block[order])
    place = np.arange(len(order)) - np.repeat(start, np.diff(start, append=len(order)))
    level_P[left[order[place >= most]]] = ORDER.index(OVER_MAX_PER_PROMPT)


def _fit(blocks: Blocks, rules: PairRules, chance_N: Chance) -> LengthFit:
    """The penalty that balances the lengths of the pairs, as they are before near-identical ones are taken out (comparing
    texts at every step would take long)."""
    tokens = blocks.num_tokens_N
    assert tokens is not None  # build_pairs has checked it

    def length_gap(penalty: float) -> float | None:
        chosen, rejected, _ = _build(penalized(blocks, penalty), rules, chance_N, None)
        return float((tokens[chosen] - tokens[rejected]).mean()) if len(chosen) else None

    return fit_length_penalty(length_gap, float((blocks.highest_B() - blocks.lowest_B()).max(initial=0.0)))


def _same_text(blocks: Blocks) -> Bools:
    if not len(blocks.row_N):
        return np.empty(0, dtype=np.bool_)
    first_N = blocks.text_N[blocks.start_B][blocks.block_N]
    return np.logical_and.reduceat(blocks.text_N == first_N, blocks.start_B)


def _rows(pool: ResponsePool, blocks: Blocks, where_B: Bools) -> Bools:
    """True in the pool's rows that are in these blocks."""
    return _mask(pool, blocks.row_N[where_B[blocks.block_N]])


def _mask(pool: ResponsePool, rows: NDArray[np.int64]) -> Bools:
    mask_R = np.zeros(len(pool), dtype=np.bool_)
    mask_R[rows] = True
    return mask_R
