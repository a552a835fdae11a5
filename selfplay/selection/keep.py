"""The cut: rank pairs by their metric value and keep the first part, within the quotas of groups and the cap of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints, Strings, places_in_groups, take_strings


def num_to_keep(num_ranked: int, keep: float) -> int:
    """The number of pairs that `keep` keeps of `num_ranked`.

    A float in (0, 1] is a fraction: round(keep * num_ranked) with Python's `round` (halves go to the even number,
    so 0.5 of 5 pairs is 2). An int from 1 is a count, capped at `num_ranked`. Mind that 1.0 is all pairs and 1 is
    one pair.
    """
    if isinstance(keep, bool) or not (0 < keep <= 1 if isinstance(keep, float) else keep >= 1):
        raise ConfigError(
            f"keep is {keep!r}", "Give a fraction above 0 and up to 1.0 (as 0.4), or a whole number of pairs from 1 on."
        )
    return round(keep * num_ranked) if isinstance(keep, float) else min(keep, num_ranked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How many pairs each group may give to the kept ones, and gives at least.

    The group of a pair is `names[group_P[row]]`. `most`: a fraction or a count of the ranked pairs of each group (see
    `num_to_keep`), one for all groups, or one for each group by its name (0: none of it); None = no limit. `least`: so many of
    each group, its best, are kept before others are.

    Raises ConfigError where `most` names other groups than there are.
    """

    group_P: Ints
    names: Sequence[str]
    most: float | Mapping[str, float] | None = None
    least: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.most, Mapping):
            return
        for one, others, hint in (
            (self.names, self.most, "Give each group its quota, 0 for none of its pairs."),
            (self.most, self.names, "The groups are: " + ", ".join(self.names[:20]) + "."),
        ):
            unknown = [name for name in one if name not in others]
            if unknown:
                what = "has no quota for" if others is self.most else "has a quota for a group that does not exist:"
                raise ConfigError(f"keep_per_group {what} {', '.join(map(repr, unknown[:5]))}", hint)

    def num_most(self, code: int, num_ranked: int) -> int:
        """The most pairs that a group of `num_ranked` ranked pairs gives."""
        most = self.most[self.names[code]] if isinstance(self.most, Mapping) else self.most
        if most is None:
            return num_ranked
        return num_to_keep(num_ranked, most) if most else 0


def keep_top(
    values_P: Floats, pair_ids: Strings, keep: float, *, lowest: bool = False, quotas: Quotas | None = None
) -> tuple[Ints, Bools, Bools]:
    """Rank by value, larger first (`lowest`: smaller first), equal values by pair id; keep the first `num_to_keep` of those
    that the quotas allow.

    Returns `rank_P` (1 = first, 0 = not ranked because the value is not finite), `kept_P`, and `over_quota_P`: ranked, but the
    group has its `most` pairs already. Pair ids are unique.
    """
    order = rank_order(-values_P if lowest else values_P, pair_ids)
    rank_P = np.zeros(len(values_P), dtype=np.int64)
    rank_P[order] = np.arange(1, len(order) + 1)
    num_kept = num_to_keep(len(order), keep)
    if quotas is None:
        return rank_P, (rank_P > 0) & (rank_P <= num_kept), np.zeros(len(values_P), dtype=np.bool_)
    place = places_in_groups(quotas.group_P[order])
    code_G, size_G = np.unique(quotas.group_P[order], return_counts=True)
    most_G = np.array([quotas.num_most(*one) for one in zip(code_G.tolist(), size_G.tolist(), strict=True)], np.int64)
    allowed = place < most_G[np.searchsorted(code_G, quotas.group_P[order])]
    # the first of every group, then the second of every group, up to `least`; then all others by rank
    turn = np.where(place < quotas.least, place, quotas.least)
    first = np.lexsort((np.arange(len(order)), turn))
    kept_P = np.zeros(len(values_P), dtype=np.bool_)
    kept_P[order[first[allowed[first]][:num_kept]]] = True
    over_quota_P = np.zeros(len(values_P), dtype=np.bool_)
    over_quota_P[order[~allowed]] = True
    return rank_P, kept_P, over_quota_P


def over_cap(values_P: Floats, pair_ids: Strings, prompt_P: Ints, most: int, *, lowest: bool = False) -> Bools:
    """True for the pairs of finite value that are not among the first `most` of their prompt in the order of `keep_top`."""
    order = rank_order(-values_P if lowest else values_P, pair_ids)
    over_P = np.zeros(len(values_P), dtype=np.bool_)
    over_P[order[places_in_groups(prompt_P[order]) >= most]] = True
    return over_P


def rank_order(values_P: Floats, pair_ids: Strings) -> Ints:
    """Rows of finite value, largest value first, equal values by pair id (in the order of its UTF-8 bytes, which is
    Python's order of strings)."""
    ranked = np.flatnonzero(np.isfinite(values_P))
    order = ranked[np.argsort(-values_P[ranked])]
    in_order = values_P[order]
    equal_next = in_order[1:] == in_order[:-1]
    tied = np.flatnonzero(np.append(equal_next, False) | np.append(False, equal_next)) if len(order) else order
    if len(tied):  # strings are slow to sort: only those that decide
        rows = order[tied]
        place = np.empty(len(rows), dtype=np.int64)
        place[pc.sort_indices(take_strings(pair_ids, rows)).to_numpy()] = np.arange(len(rows))
        order[tied] = rows[np.lexsort((place, -values_P[rows]))]
    return order
