"""Array types of the selection code, and the integer codes that stand for strings in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Strings: TypeAlias = Sequence[str] | Any
"""A column of strings: Python's, or an Arrow array or chunked array (which has no types)."""
_Value = TypeVar("_Value", bound=Hashable)


def factorize(values: Iterable[_Value]) -> tuple[Ints, list[_Value]]:
    """Codes, counted from 0 in order of first appearance, and the value behind each: ["b", "a", "b"] -> [0, 1, 0], ["b", "a"].
    Exact: a dict, not a bare hash."""
    seen: dict[_Value, int] = {}
    codes = np.fromiter((seen.setdefault(value, len(seen)) for value in values), np.int64)
    return codes, list(seen)


def run_starts(values: NDArray[np.number[Any]]) -> Ints:
    """Positions at which a run of equal neighbours begins: [4, 4, 7, 4] -> [0, 2, 3]."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))).astype(np.int64)


def take_strings(values: Strings, rows: Ints) -> pa.Array:
    """The strings of some rows as an Arrow array, without a look at the others. Raises ValueError for a null."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        taken = values.take(pa.array(rows)).cast(pa.large_string())
        taken = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
    else:
        taken = pa.array([values[row] for row in rows.tolist()], pa.large_string())
    if taken.null_count:
        raise ValueError(f"{taken.null_count} ids are null")
    return taken


def places_in_groups(group_P: Ints) -> Ints:
    """The number of rows of the same group that stand before each row: [4, 7, 4, 4] -> [0, 0, 1, 2]."""
    by_group = np.argsort(group_P, kind="stable")
    starts = run_starts(group_P[by_group])
    place_P = np.empty(len(group_P), dtype=np.int64)
    place_P[by_group] = np.arange(len(group_P)) - np.repeat(starts, np.diff(starts, append=len(group_P)))
    return place_P
