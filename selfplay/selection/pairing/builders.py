"""Builders: which two responses of a prompt become a pair. Each is a small function of `PromptGroups`.

A builder returns positions of chosen and rejected, at most one pair a group (`all_pairs` apart, which comes in parts).
It may return a pair of equal rewards, or of one response with itself where all rewards of a group are equal: the filters
take those out, so that they are counted. Equal rewards are told apart by `response_index`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Floats, Ints, run_starts
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.prompt_groups import PromptGroups

RandomBits = NDArray[np.uint64]
Positions = tuple[Ints, Ints]

# Candidate pairs of `all_pairs` that are in memory at a time, about 30 bytes each.
PART = 2_000_000
_NEVER = np.uint64(2**64 - 1)


def candidates(groups: PromptGroups, rules: PairRules, bits_N: RandomBits) -> Iterator[Positions]:
    """The candidate pairs of a builder, part by part; the pairs of one group are in one part."""
    if rules.build == "all":
        yield from all_pairs(groups)
    elif len(groups.row_N):
        if rules.build == "minimum_gap":
            yield minimum_gap(groups, rules.min_gap)
        else:
            yield _SINGLE[rules.build](groups, bits_N)


def best_worst(groups: PromptGroups, bits_N: RandomBits) -> Positions:
    """Highest against lowest reward. The recipe that was released with the alignment potential."""
    return best(groups), groups.first(groups.reward_N == groups.lowest_G()[groups.group_N])


def best_random(groups: PromptGroups, bits_N: RandomBits) -> Positions:
    """Highest reward against one of the others, each as likely. It may be as good as the best: then there is no pair."""
    chosen_G = best(groups)
    return chosen_G, _random_response(groups, bits_N, chosen_G)


def random_pair(groups: PromptGroups, bits_N: RandomBits) -> Positions:
    """Two responses, each two as likely; the better is chosen (of equal ones the lower index: a tie is no pair)."""
    first_G = _random_response(groups, bits_N)
    second_G = _random_response(groups, bits_N, first_G)
    low_G, high_G = np.minimum(first_G, second_G), np.maximum(first_G, second_G)
    swap_G = groups.reward_N[high_G] > groups.reward_N[low_G]
    return np.where(swap_G, high_G, low_G), np.where(swap_G, low_G, high_G)


def best_median(groups: PromptGroups, bits_N: RandomBits) -> Positions:
    """Highest reward against the median one; of an even number the lower of the two in the middle. Of equal rewards the
    higher index stands lower, so that the median is never the best itself."""
    order = np.lexsort((-groups.index_N, groups.reward_N, groups.group_N))
    return best(groups), order[groups.start_G + (groups.size_G - 1) // 2]


def sweet_spot(groups: PromptGroups, bits_N: RandomBits) -> Positions:
    """Highest reward against the one nearest to mean - 2 population standard deviations of the group's rewards.

    Xiao et al., "Finding the Sweet Spot", ACL 2025: with many samples the very worst is a poor rejected response. Of two
    that are as near the lower index is taken, and never the best itself.
    """
    groups, _ = groups.in_units()  # mean - 2 std may be beyond the largest float
    mean_G, std_G = groups.mean_and_std_G()
    chosen_G = best(groups)
    distance_N = np.abs(groups.reward_N - (mean_G - 2 * std_G)[groups.group_N])
    distance_N[chosen_G] = np.inf
    return chosen_G, groups.first(distance_N == np.minimum.reduceat(distance_N, groups.start_G)[groups.group_N])


def minimum_gap(groups: PromptGroups, min_gap: float) -> Positions:
    """The two whose rewards are nearest to each other, more than `min_gap` apart. Of equal gaps the pair with the lowest
    chosen and then the lowest rejected index. PromptGroups whose rewards all lie within `min_gap` give no pair."""
    order = np.lexsort((groups.index_N, groups.reward_N, groups.group_N))
    # one response for each different reward of a group: that of the lowest index
    group, reward = groups.group_N[order], groups.reward_N[order]
    new = np.concatenate(([True], (np.diff(group) != 0) | (reward[1:] != reward[:-1])))
    order, group, reward = order[new], group[new], reward[new]
    end = np.searchsorted(group, group, side="right")
    # for each response as the rejected one: the lowest reward that is far enough above it
    upper = np.full(len(order), -1, dtype=np.int64)
    left = np.flatnonzero(np.arange(len(order)) + 1 < end)
    lag = 1
    while len(left):
        far = reward[left + lag] - reward[left] > min_gap
        upper[left[far]] = left[far] + lag
        lag += 1
        left = left[~far & (left + lag < end[left])]
    lower = np.flatnonzero(upper >= 0)
    upper = upper[lower]
    gap: Floats = reward[upper] - reward[lower]
    nearest = np.lexsort((groups.index_N[order[lower]], groups.index_N[order[upper]], gap, group[lower]))
    nearest = nearest[run_starts(group[lower][nearest])]
    return order[upper[nearest]], order[lower[nearest]]


def all_pairs(groups: PromptGroups, part: int = PART) -> Iterator[Positions]:
    """Every two responses, the better chosen (of equal ones the lower index), about `part` pairs at a time."""
    for size in np.unique(groups.size_G).tolist():
        first, second = np.triu_indices(size, 1)
        start_G = groups.start_G[groups.size_G == size]
        step = max(1, part // max(1, len(first)))
        for begin in range(0, len(start_G), step):
            starts = start_G[begin : begin + step, None]
            low, high = (starts + first).ravel(), (starts + second).ravel()
            swap = groups.reward_N[high] > groups.reward_N[low]
            yield np.where(swap, high, low), np.where(swap, low, high)


def best(groups: PromptGroups) -> Ints:
    """Position of the highest reward of each group."""
    return groups.first(groups.reward_N == groups.highest_G()[groups.group_N])


def _random_response(groups: PromptGroups, bits_N: RandomBits, but_G: Ints | None = None) -> Ints:
    """A random response of each group, other than `but_G`. PromptGroups hold two or more, and bits are below 2^63."""
    if but_G is not None:
        bits_N = bits_N.copy()
        bits_N[but_G] = _NEVER
    return groups.first(bits_N == np.minimum.reduceat(bits_N, groups.start_G)[groups.group_N])


_SINGLE: dict[str, Callable[[PromptGroups, RandomBits], Positions]] = {
    "best_worst": best_worst,
    "random_pair": random_pair,
    "best_random": best_random,
    "best_median": best_median,
    "sweet_spot": sweet_spot,
}
