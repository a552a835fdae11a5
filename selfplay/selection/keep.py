"""The cut: rank pairs by their metric value and keep the best part."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints, Strings, take_strings


def num_to_keep(num_ranked: int, keep: float) -> int:
    """How many of `num_ranked` pairs `keep` stands for.

    A float in (0, 1] is a fraction: round(keep * num_ranked) with Python's `round` (halves go to the even number,
    so 0.5 of 5 pairs is 2). An int from 1 is a count, capped at `num_ranked`. Mind that 1.0 is all pairs and 1 is
    one pair.
    """
    if isinstance(keep, bool) or not (0 < keep <= 1 if isinstance(keep, float) else keep >= 1):
        raise ConfigError(
            f"keep is {keep!r}", "Give a fraction above 0 and up to 1.0 (as 0.4), or a whole number of pairs from 1 on."
        )
    return round(keep * num_ranked) if isinstance(keep, float) else min(keep, num_ranked)


def keep_top(values_P: Floats, pair_ids: Strings, keep: float) -> tuple[Ints, Bools]:
    """Rank by value, larger first, equal values by pair id; keep the first `num_to_keep`.

    Returns `rank_P` (1 = best, 0 = not ranked because the value is not finite) and `kept_P`. Pair ids are unique.
    """
    order = rank_order(values_P, pair_ids)
    rank_P = np.zeros(len(values_P), dtype=np.int64)
    rank_P[order] = np.arange(1, len(order) + 1)
    return rank_P, (rank_P > 0) & (rank_P <= num_to_keep(len(order), keep))


def rank_order(values_P: Floats, pair_ids: Strings) -> Ints:
    """Rows of finite value, largest value first, equal values by pair id (in the order of its UTF-8 bytes, which is
    Python's order of strings)."""
    ranked = np.flatnonzero(np.isfinite(values_P))
    order = ranked[np.argsort(-values_P[ranked])]
    equal_next = values_P[order[1:]] == values_P[order[:-1]]
    tied = np.flatnonzero(np.append(equal_next, False) | np.append(False, equal_next)) if len(order) else order
    if len(tied):  # strings are slow to sort: only those that decide
        rows = order[tied]
        place = np.empty(len(rows), dtype=np.int64)
        place[pc.sort_indices(take_strings(pair_ids, rows)).to_numpy()] = np.arange(len(rows))
        order[tied] = rows[np.lexsort((place, -values_P[rows]))]
    return order
