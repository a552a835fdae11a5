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
from selfplay.selection.arrays import Bools, Floats, Ints, places_in_groups, run_starts
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.builders import Positions, RandomBits, candidates
from selfplay.selection.pairing.filters import ORDER, PASSED, Candidates, Levels, levels
from selfplay.selection.pairing.length_penalty import fit_length_penalty
from selfplay.selection.pairing.prompt_groups import PromptGroups, group_by_prompt, random_bits_of
from selfplay.selection.pairing.similarity import similarities
from selfplay.selection.reasons import (
    GAP_TOO_SMALL,
    IDENTICAL_RESPONSES,
    NOT_EXTREME,
    NOT_PICKED,
    OVER_MAX_PER_PROMPT,
    PROMPT_HAS_TOO_FEW_RESPONSES,
    ZERO_MARGIN,
    DropReasons,
    is_kept,
    with_reason,
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
    reason_R: DropReasons
    length_penalty: float = 0.0
    fit: LengthFit | None = None


# a difference of rewards, or a penalised reward, may be beyond the largest float: it is infinite then, and in no pair
@np.errstate(over="ignore", invalid="ignore")
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
    usable = group_by_prompt(pool, is_kept(reason_R))
    reason_R = with_reason(reason_R, _rows(pool, usable, usable.size_G < 2), PROMPT_HAS_TOO_FEW_RESPONSES)
    reason_R = with_reason(reason_R, _rows(pool, usable, _same_text(usable)), IDENTICAL_RESPONSES)

    del usable  # as large as `groups`
    groups = group_by_prompt(pool, is_kept(reason_R))
    random = rules.build in ("random_pair", "best_random")
    bits_N = random_bits_of(pool, groups, seed) if random else np.zeros(len(groups.row_N), dtype=np.uint64)
    fit = _fit(groups, rules, bits_N, pool.texts) if rules.length_penalty == "auto" else None
    penalty = fit.penalty if fit is not None else rules.length_penalty
    assert not isinstance(penalty, str)
    groups = penalized(groups, penalty)
    chosen, rejected, level_N = _build(groups, rules, bits_N, pool.texts)

    spread_G = groups.highest_G() - groups.lowest_G()
    reason_R = with_reason(reason_R, _rows(pool, groups, spread_G == 0), ZERO_MARGIN)
    if rules.min_gap > 0:
        reason_R = with_reason(reason_R, _rows(pool, groups, spread_G <= rules.min_gap), GAP_TOO_SMALL)
    for level, name in enumerate(ORDER):
        reason_R = with_reason(reason_R, _mask(pool, groups.row_N[level_N == level]), name)
    others = NOT_EXTREME if rules.build == "best_worst" else NOT_PICKED
    reason_R = with_reason(reason_R, _mask(pool, groups.row_N[level_N < 0]), others)

    mean_G, std_G = groups.mean_and_std_G()
    group_P = groups.group_N[chosen]
    return Pairing(
        chosen_P=groups.row_N[chosen],
        rejected_P=groups.row_N[rejected],
        reward_chosen_P=groups.reward_N[chosen],
        reward_rejected_P=groups.reward_N[rejected],
        prompt_reward_mean_P=mean_G[group_P],
        prompt_reward_std_P=std_G[group_P],
        reason_R=reason_R,
        length_penalty=penalty,
        fit=fit,
    )


def penalized(groups: PromptGroups, penalty: float) -> PromptGroups:
    """The groups with `penalty` off the reward for each token."""
    if penalty == 0:
        return groups
    assert groups.num_tokens_N is not None  # build_pairs has checked it
    return replace(groups, reward_N=groups.reward_N - penalty * groups.num_tokens_N)


def _build(
    groups: PromptGroups, rules: PairRules, bits_N: RandomBits, texts: Sequence[str]
) -> tuple[Ints, Ints, Levels]:
    """Positions of chosen and rejected of the pairs that stay, sorted; and how far the best pair of each response came (see
    `filters.levels`; -1 where it was in none)."""
    level_N = np.full(len(groups.row_N), -1, dtype=np.int8)
    stay: list[Positions] = []
    for chosen, rejected in candidates(groups, rules, bits_N):
        level_P = levels(_looked_at(groups, chosen, rejected, texts), rules, len(chosen))
        if rules.max_per_prompt is not None:
            _cap(groups, chosen, rejected, level_P, rules.max_per_prompt)
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


def _looked_at(groups: PromptGroups, chosen: Ints, rejected: Ints, texts: Sequence[str]) -> Candidates:
    tokens = groups.num_tokens_N

    def similarity(left: Ints) -> Floats:
        return similarities(texts, groups.row_N[chosen[left]], groups.row_N[rejected[left]])

    return Candidates(
        identical_P=groups.text_N[chosen] == groups.text_N[rejected],
        reward_chosen_P=groups.reward_N[chosen],
        reward_rejected_P=groups.reward_N[rejected],
        num_tokens_chosen_P=tokens[chosen] if tokens is not None else None,
        num_tokens_rejected_P=tokens[rejected] if tokens is not None else None,
        similarity=similarity,
    )


def _cap(groups: PromptGroups, chosen: Ints, rejected: Ints, level_P: Levels, most: int) -> None:
    """Take out of each group all passed pairs but the `most` of the largest margin. All pairs of a group are here, and each
    group has as many of them."""
    margin_P = np.where(level_P == PASSED, groups.reward_N[chosen] - groups.reward_N[rejected], -np.inf)
    num_groups = len(run_starts(groups.group_N[chosen]))
    margin_GM = margin_P.reshape(num_groups, -1)
    if margin_GM.shape[1] <= most:
        return
    # only what is as good as the last one to stay needs to be sorted
    least_G = np.partition(margin_GM, -most, axis=1)[:, -most]
    level_P[((margin_GM < least_G[:, None]) & (margin_GM > -np.inf)).ravel()] = ORDER.index(OVER_MAX_PER_PROMPT)
    left = np.flatnonzero(level_P == PASSED)
    chosen, rejected, group = chosen[left], rejected[left], groups.group_N[chosen[left]]
    order = np.lexsort((rejected, chosen, -margin_P[left], group))
    level_P[left[order[places_in_groups(group[order]) >= most]]] = ORDER.index(OVER_MAX_PER_PROMPT)


def _fit(groups: PromptGroups, rules: PairRules, bits_N: RandomBits, texts: Sequence[str]) -> LengthFit:
    """The penalty that balances the lengths of the pairs, as they are before near-identical ones are taken out (comparing
    texts at every step would take long)."""
    tokens = groups.num_tokens_N
    assert tokens is not None  # build_pairs has checked it

    rules = replace(rules, max_similarity=1.0)

    def length_gap(penalty: float) -> float | None:
        chosen, rejected, _ = _build(penalized(groups, penalty), rules, bits_N, texts)
        return float((tokens[chosen] - tokens[rejected]).mean()) if len(chosen) else None

    return fit_length_penalty(length_gap, float((groups.highest_G() - groups.lowest_G()).max(initial=0.0)))


def _same_text(groups: PromptGroups) -> Bools:
    if not len(groups.row_N):
        return np.empty(0, dtype=np.bool_)
    first_N = groups.text_N[groups.start_G][groups.group_N]
    return np.logical_and.reduceat(groups.text_N == first_N, groups.start_G)


def _rows(pool: ResponsePool, groups: PromptGroups, where_G: Bools) -> Bools:
    """True in the pool's rows that are in these groups."""
    return _mask(pool, groups.row_N[where_G[groups.group_N]])


def _mask(pool: ResponsePool, rows: NDArray[np.int64]) -> Bools:
    mask_R = np.zeros(len(pool), dtype=np.bool_)
    mask_R[rows] = True
    return mask_R
