"""Array types of the selection code, and the integer codes that stand for strings in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Reasons = NDArray[np.object_]
"""One `str | None` a row: None where there is nothing to object to."""


def codes(values: Iterable[Hashable]) -> Ints:
    """Equal values get equal integers, counted from 0 in order of first appearance. Exact: a dict, not a bare hash."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)


def starts_of_runs(values: Ints | Floats) -> Ints:
    """Positions at which a run of equal neighbours begins: [4, 4, 7, 4] -> [0, 2, 3]."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))).astype(np.int64)
