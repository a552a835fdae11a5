"""The cut: rank pairs by their metric value and keep the best part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints
from selfplay.selection.ids import Ids


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
    order = rank_order(values_P, pair_ids)
    rank_P = np.zeros(len(values_P), dtype=np.int64)
    rank_P[order] = np.arange(1, len(order) + 1)
    return rank_P, (rank_P > 0) & (rank_P <= num_to_keep(len(order), keep))


def rank_order(values_P: Floats, pair_ids: Sequence[str]) -> Ints:
    """Rows of finite value, largest value first, equal values by pair id.

    One sort of integers does most of it, several times faster than an argsort: each holds the upper bits of the value
    (an unsigned number of the same order) and, in the bits below, its row. Rows whose upper bits agree are then put in
    order by their whole value and their id.
    """
    finite_P = np.isfinite(values_P)
    everything = bool(finite_P.all())
    ranked = np.arange(len(values_P)) if everything else np.flatnonzero(finite_P)
    if not len(ranked):
        return ranked
    row_bits = np.uint64(max(1, len(values_P).bit_length()))
    row_mask = (np.uint64(1) << row_bits) - np.uint64(1)
    descending = -values_P if everything else -values_P[ranked]
    descending += 0.0  # -0.0 becomes the 0.0 that it equals
    packed = _ascending_bits(descending)
    packed &= ~row_mask
    packed |= ranked.view(np.uint64)
    del ranked
    packed.sort()
    # The same upper bits as the neighbour: the two differ in the lower bits, those of the row, alone.
    joined = (packed[1:] ^ packed[:-1]) <= row_mask
    packed &= row_mask
    order = packed.view(np.int64)
    tied = np.flatnonzero(np.concatenate((joined, [False])) | np.concatenate(([False], joined)))
    if len(tied):
        run = np.cumsum(~np.concatenate(([False], joined))[tied])
        order[tied] = _by_value_and_id(order[tied], run, values_P, pair_ids)
    return order


def _ascending_bits(values: Floats) -> NDArray[np.uint64]:
    """The values' bits as unsigned integers of the same order: positive numbers above negative ones, which are
    inverted. The values must be finite; their array is overwritten."""
    bits = values.view(np.uint64)
    # the sign bit, spread over all bits by an arithmetic shift: ones for a negative number, which is inverted
    inverted = values.view(np.int64) >> 63
    bits ^= inverted.view(np.uint64) | np.uint64(1 << 63)
    return bits


def _by_value_and_id(rows: Ints, run: Ints, values_P: Floats, pair_ids: Sequence[str]) -> Ints:
    """`rows`, which lie in runs (`run` is not decreasing), by descending value inside their run, equal values by id."""
    value = values_P[rows]
    by_value = np.lexsort((-value, run))
    rows, value, run = rows[by_value], value[by_value], run[by_value]
    new = np.concatenate(([True], (value[1:] != value[:-1]) | (run[1:] != run[:-1])))
    equal = np.cumsum(new)
    tied = np.flatnonzero(np.bincount(equal)[equal] > 1)
    if len(tied):
        rows[tied] = rows[tied][Ids.some(pair_ids, rows[tied]).order_in(equal[tied])]
    return rows
