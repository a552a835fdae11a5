"""How evenly the kept pairs fall on groups (skills, sources, files), against a random choice of as many pairs.

A metric that compares rewards over groups whose rewards have different scales takes the groups with the largest scale,
whatever their pairs are worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selfplay.selection.arrays import Bools, Floats, Ints, Strings

# Shares are listed for this many groups, the largest of the pool first.
LISTED = 20
# With more groups than this nearly every group has a handful of pairs: there is no unevenness worth the word.
MOST_GROUPS = 4000
NO_GROUP = "(none)"
_DRAWS = 400_000
_FEWEST_DRAWS, _MOST_DRAWS = 100, 2000


@dataclass(frozen=True, slots=True)
class Grouping:
    """The group of each pair: `names[code_P[row]]`. Codes are counted from 0.

    Example: Grouping.of(["maths", "code", "maths"]) has codes [0, 1, 0] and names ("maths", "code")
    """

    code_P: Ints
    names: tuple[str, ...]

    @staticmethod
    def of(values: Strings) -> Grouping:
        """From a name a row, null for no group; groups in order of first appearance."""
        column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values, pa.string())])
        coded = column.cast(pa.large_string()).fill_null(NO_GROUP).combine_chunks().dictionary_encode()
        return Grouping(coded.indices.to_numpy().astype(np.int64), tuple(coded.dictionary.to_pylist()))


@dataclass(frozen=True, slots=True)
class GroupShare:
    """A group's part of the pool and of the kept pairs. `num_expected` is the mean of a random choice of as many pairs,
    `ratio` = num_kept / num_expected: 1 is even, 0 is left out; None where nothing is kept."""

    group: str
    num_pool: int
    num_kept: int
    num_expected: float
    share_pool: float
    share_kept: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class GroupShares:
    """How the kept pairs fall on the groups.

    `unevenness` is the total variation distance between the shares of the pool and of the kept pairs: the part of
    the kept pairs that would have to be of another group to restore the pool's shares (0 to 1). Random choices of as
    many pairs have a mean of `unevenness_random_mean` and stay below `unevenness_random_q99` in 99 of 100 draws
    (seeded draws without replacement; None for one group or for more than MOST_GROUPS). `effective_pool` and
    `effective_kept` are exp(entropy of the shares): the number of equally large groups that are as diverse. `shares`
    lists the LISTED groups that are largest in the pool. None where nothing is kept.
    """

    num_groups: int
    num_groups_kept: int
    effective_pool: float
    effective_kept: float | None
    unevenness: float | None
    unevenness_random_mean: float | None
    unevenness_random_q99: float | None
    shares: tuple[GroupShare, ...]


def group_shares(grouping: Grouping, pool_P: Bools, kept_P: Bools) -> GroupShares | None:
    """How the kept pairs fall on the groups of the pool; None where the pool is empty."""
    num_pool = np.bincount(grouping.code_P[pool_P], minlength=len(grouping.names))
    num_kept = np.bincount(grouping.code_P[kept_P], minlength=len(grouping.names))
    total, total_kept = int(num_pool.sum()), int(num_kept.sum())
    if not total:
        return None
    share_pool = num_pool / total
    share_kept = num_kept / total_kept if total_kept else None
    random = None if share_kept is None else _random_unevenness(num_pool[num_pool > 0], total_kept)
    order = np.lexsort((np.arange(len(num_pool)), -num_pool))[:LISTED]
    return GroupShares(
        num_groups=int((num_pool > 0).sum()),
        num_groups_kept=int((num_kept > 0).sum()),
        effective_pool=effective_number(share_pool),
        effective_kept=None if share_kept is None else effective_number(share_kept),
        unevenness=None if share_kept is None else _distance(share_kept, share_pool),
        unevenness_random_mean=None if random is None else float(random.mean()),
        unevenness_random_q99=None if random is None else float(np.quantile(random, 0.99)),
        shares=tuple(
            GroupShare(
                group=grouping.names[group],
                num_pool=int(num_pool[group]),
                num_kept=int(num_kept[group]),
                num_expected=float(share_pool[group] * total_kept),
                share_pool=float(share_pool[group]),
                share_kept=None if share_kept is None else float(share_kept[group]),
                ratio=None if share_kept is None else float(share_kept[group] / share_pool[group]),
            )
            for group in order.tolist()
            if num_pool[group]
        ),
    )


def effective_number(shares: Floats) -> float:
    """exp of the entropy of shares that sum to 1: how many equally large groups are as diverse."""
    present = shares[shares > 0]
    return float(np.exp(-(present * np.log(present)).sum()))


def _distance(one: Floats, two: Floats) -> float:
    return float(np.abs(one - two).sum() / 2)


def _random_unevenness(num_pool: Ints, num_kept: int) -> Floats | None:
    """The unevenness of random choices of `num_kept` pairs out of groups of these sizes."""
    if not 1 < len(num_pool) <= MOST_GROUPS:
        return None
    draws = min(max(_DRAWS // len(num_pool), _FEWEST_DRAWS), _MOST_DRAWS)
    # fixed: the same table gives the same document
    drawn = np.random.default_rng(0).multivariate_hypergeometric(num_pool, num_kept, size=draws, method="marginals")
    distance: Floats = np.abs(drawn / num_kept - num_pool / num_pool.sum()).sum(axis=1) / 2
    return distance
