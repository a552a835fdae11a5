"""Array types of the selection code, and the integer codes that stand for strings in it."""

from __future__ import annotations

import contextvars
import functools
import os
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

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
# From so many rows on threads are worth their start; numpy lets go of the interpreter's lock inside its loops.
_MANY = 1 << 20
_THREADS = min(4, len(os.sched_getaffinity(0)))
Result = TypeVar("Result")


def side_by_side(jobs: Iterable[Callable[[], Result]], num_rows: int) -> list[Result]:
    """The jobs' results in order; worked on in threads where there are many rows. numpy's error state goes along."""
    if num_rows < _MANY or _THREADS < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(_THREADS) as threads:
        under_way = [threads.submit(contextvars.copy_context().run, job) for job in jobs]
        return [job.result() for job in under_way]


def in_blocks(formula: Callable[..., Floats], *columns: NDArray[np.number[Any]]) -> Floats:
    """`formula(*columns)`, an elementwise formula of columns over the same rows, worked out in float64 block by block."""
    result = np.empty(len(columns[0]))
    share = -(-len(result) // _THREADS)

    def work(first: int) -> None:
        end = min(first + share, len(result))
        for start in range(first, end, _BLOCK):
            rows = slice(start, min(start + _BLOCK, end))
            result[rows] = formula(*(column[rows].astype(np.float64, copy=False) for column in columns))

    side_by_side([functools.partial(work, first) for first in range(0, len(result), share or 1)], len(result))
    return result
