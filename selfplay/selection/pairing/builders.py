"""Builders: which two responses of a prompt become a pair. Each is a small function of `Blocks`.

A builder returns positions of chosen and rejected, at most one pair a block (`all_pairs` apart, which comes in parts).
It may return a pair of equal rewards, or of one response with itself where all rewards of a block are equal: the filters
take those out, so that they are counted. Equal rewards are told apart by `response_index`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Floats, Ints, run_starts
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.blocks import Blocks

Chance = NDArray[np.uint64]
Positions = tuple[Ints, Ints]

# Candidate pairs of `all_pairs` that are in memory at a time, about 30 bytes each.
PART = 2_000_000
_NEVER = np.uint64(2**64 - 1)


def candidates(blocks: Blocks, rules: PairRules, chance_N: Chance) -> Iterator[Positions]:
    """The candidate pairs of a builder, part by part; the pairs of one block are in one part."""
    if rules.build == "all":
        yield from all_pairs(blocks)
    elif len(blocks.row_N):
        if rules.build == "minimum_gap":
            yield minimum_gap(blocks, rules.min_gap)
        else:
            yield _SINGLE[rules.build](blocks, chance_N)


def best_worst(blocks: Blocks, chance_N: Chance) -> Positions:
    """Highest against lowest reward. The recipe that was released with the alignment potential."""
    return best(blocks), blocks.first(blocks.reward_N == blocks.lowest_B()[blocks.block_N])


def best_random(blocks: Blocks, chance_N: Chance) -> Positions:
    """Highest reward against one of the others, each as likely. It may be as good as the best: then there is no pair."""
    chosen_B = best(blocks)
    return chosen_B, _least_chance(blocks, chance_N, chosen_B)


def random_pair(blocks: Blocks, chance_N: Chance) -> Positions:
    """Two responses, each two as likely; the better is chosen (of equal ones the lower index: a tie is no pair)."""
    first_B = _least_chance(blocks, chance_N)
    second_B = _least_chance(blocks, chance_N, first_B)
    low_B, high_B = np.minimum(first_B, second_B), np.maximum(first_B, second_B)
    swap_B = blocks.reward_N[high_B] > blocks.reward_N[low_B]
    return np.where(swap_B, high_B, low_B), np.where(swap_B, low_B, high_B)


def best_median(blocks: Blocks, chance_N: Chance) -> Positions:
    """Highest reward against the median one; of an even number the lower of the two in the middle. Of equal rewards the
    higher index stands lower, so that the median is never the best itself."""
    order = np.lexsort((-blocks.index_N, blocks.reward_N, blocks.block_N))
    return best(blocks), order[blocks.start_B + (blocks.size_B - 1) // 2]


def sweet_spot(blocks: Blocks, chance_N: Chance) -> Positions:
    """Highest reward against the one nearest to mean - 2 population standard deviations of the block's rewards.

    Xiao et al., "Finding the Sweet Spot", ACL 2025: with many samples the very worst is a poor rejected response. Of two
    that are as near the lower index is taken, and never the best itself.
    """
    mean_B, std_B = blocks.mean_and_std_B()
    chosen_B = best(blocks)
    distance_N = np.abs(blocks.reward_N - (mean_B - 2 * std_B)[blocks.block_N])
    distance_N[chosen_B] = np.inf
    return chosen_B, blocks.first(distance_N == np.minimum.reduceat(distance_N, blocks.start_B)[blocks.block_N])


def minimum_gap(blocks: Blocks, min_gap: float) -> Positions:
    """The two whose rewards are nearest to each other, more than `min_gap` apart. Of equal gaps the pair with the lowest
    chosen and then the lowest rejected index. Blocks whose rewards all lie within `min_gap` give no pair."""
    order = np.lexsort((blocks.index_N, blocks.reward_N, blocks.block_N))
    # one response for each different reward of a block: that of the lowest index
    block, reward = blocks.block_N[order], blocks.reward_N[order]
    new = np.concatenate(([True], (np.diff(block) != 0) | (reward[1:] != reward[:-1])))
    order, block, reward = order[new], block[new], reward[new]
    end = np.searchsorted(block, block, side="right")
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
    nearest = np.lexsort((blocks.index_N[order[lower]], blocks.index_N[order[upper]], gap, block[lower]))
    nearest = nearest[run_starts(block[lower][nearest])]
    return order[upper[nearest]], order[lower[nearest]]


def all_pairs(blocks: Blocks, part: int = PART) -> Iterator[Positions]:
    """Every two responses, the better chosen (of equal ones the lower index), about `part` pairs at a time."""
    for size in np.unique(blocks.size_B).tolist():
        first, second = np.triu_indices(size, 1)
        start_B = blocks.start_B[blocks.size_B == size]
        step = max(1, part // max(1, len(first)))
        for begin in range(0, len(start_B), step):
            starts = start_B[begin : begin + step, None]
            low, high = (starts + first).ravel(), (starts + second).ravel()
            swap = blocks.reward_N[high] > blocks.reward_N[low]
            yield np.where(swap, high, low), np.where(swap, low, high)


def best(blocks: Blocks) -> Ints:
    """Position of the highest reward of each block."""
    return blocks.first(blocks.reward_N == blocks.highest_B()[blocks.block_N])


def _least_chance(blocks: Blocks, chance_N: Chance, but_B: Ints | None = None) -> Ints:
    """A random response of each block, other than `but_B`. Blocks hold two or more, and chance is below 2^63."""
    if but_B is not None:
        chance_N = chance_N.copy()
        chance_N[but_B] = _NEVER
    return blocks.first(chance_N == np.minimum.reduceat(chance_N, blocks.start_B)[blocks.block_N])


_SINGLE: dict[str, Callable[[Blocks, Chance], Positions]] = {
    "best_worst": best_worst,
    "random_pair": random_pair,
    "best_random": best_random,
    "best_median": best_median,
    "sweet_spot": sweet_spot,
}
