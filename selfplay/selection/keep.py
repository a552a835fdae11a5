"""The cut: rank pairs by their metric value and keep the best part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfplay.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints, starts_of_runs


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


def keep_top(values_P: Floats, pair_ids: Sequence[str], keep: float) -> tuple[Ints, Bools]:
    """Rank by value, larger first, equal values by pair id; keep the first `num_to_keep`.

    Returns `rank_P` (1 = best, 0 = not ranked because the value is not finite) and `kept_P`. Pair ids are unique.
    """
    ranked = np.flatnonzero(np.isfinite(values_P))
    order = ranked[np.argsort(-values_P[ranked], kind="stable")]
    order = _ties_by_id(order, values_P, pair_ids)
    rank_P = np.zeros(len(values_P), dtype=np.int64)
    rank_P[order] = np.arange(1, len(order) + 1)
    kept_P = (rank_P > 0) & (rank_P <= num_to_keep(len(order), keep))
    return rank_P, kept_P


def _ties_by_id(order: Ints, values_P: Floats, pair_ids: Sequence[str]) -> Ints:
    """`order` with each run of equal values sorted by pair id; strings are compared only where values are equal."""
    if not len(order):
        return order
    start = starts_of_runs(values_P[order])
    run = np.repeat(np.arange(len(start)), np.diff(start, append=len(order)))
    tied = np.flatnonzero(np.bincount(run)[run] > 1)
    ids = [pair_ids[row] for row in order[tied].tolist()]
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    # `by_id` orders all tied rows by id; a stable sort by run then leaves them by id inside their run.
    by_run = by_id[np.argsort(run[tied][by_id], kind="stable")]
    order = order.copy()
    order[tied] = order[tied][by_run]
    return order
