"""Array types of the selection code, and the integer codes that stand for strings in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def codes(values: Iterable[Hashable]) -> Ints:
    """Equal values get equal integers, counted from 0 in order of first appearance. Exact: a dict, not a bare hash."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)


def starts_of_runs(values: NDArray[np.number[Any]]) -> Ints:
    """Positions at which a run of equal neighbours begins: [4, 4, 7, 4] -> [0, 2, 3]."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))).astype(np.int64)


# Rows that an elementwise formula is worked out for at a time: its intermediate results then stay in the cache, and a
# table of ten million rows costs no further arrays of that length.
_BLOCK = 1 << 15


def in_blocks(formula: Callable[..., Floats], *columns: NDArray[np.number[Any]]) -> Floats:
    """`formula(*columns)`, an elementwise formula of columns over the same rows, worked out in float64 block by block."""
    result = np.empty(len(columns[0]))
    for start in range(0, len(result), _BLOCK):
        rows = slice(start, start + _BLOCK)
        result[rows] = formula(*(column[rows].astype(np.float64, copy=False) for column in columns))
    return result
