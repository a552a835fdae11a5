"""Which pairs a query asks for. Tests of numbers are put to whole columns at once; tests of texts to one row group after the
other, as many as one request may read: the page says how far it came, and the next request goes on from there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.inspect.query.where import Where, parse_where
from selfplay.inspect.viewer.query import Query
from selfplay.inspect.viewer.rows import Chunk, Rows, RowSet

SEARCHED_BYTES = 32 << 20
"""Of text that one request looks through."""


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that match, in the order asked for; `num_searched` rows of the table were looked at (all of them, unless a
    search in texts is not through)."""

    rows: Rows
    num_searched: int
    num_rows: int

    @property
    def complete(self) -> bool:
        """Whether these are all."""
        return self.num_searched == self.num_rows


def find(rows: RowSet, query: Query, searched_bytes: int = SEARCHED_BYTES) -> Found:
    """The pairs of a query. Raises ConfigError for a filter that cannot be read, CorruptionError."""
    key = (rows.key, "found", tuple(query.clauses()), query.sort, query.descending)

    def make() -> Found:
        fast, slow = _tests(rows, query)
        mask = _mask(rows, fast)
        until = rows.num_rows
        if slow:
            mask, until = _search(rows, slow, mask, searched_bytes)
        return Found(_ordered(rows, np.flatnonzero(mask), query), until, rows.num_rows)

    # an unfinished one is made again, from what its row groups gave: the key must not hold it
    return rows.cache.get(key, make, lambda found: found.rows.nbytes if found.complete else rows.cache.too_large)


def stream(rows: RowSet, query: Query, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All rows of a query as tables, row group by row group in the order of the table; nothing is kept."""
    fast, slow = _tests(rows, query)
    mask = _mask(rows, fast)
    for chunk in rows.chunks():
        inside = mask[chunk.first : chunk.first + chunk.num_rows]
        if not inside.any():
            continue
        table = rows.read_chunk(chunk, columns or rows.schema.names)
        for test in slow:
            inside = inside & _passes(test, table, chunk.num_rows)
        if inside.any():
            yield table.filter(pa.array(inside))


def _tests(rows: RowSet, query: Query) -> tuple[list[Where], list[Where]]:
    """The tests that whole columns are read for, and those that read texts."""
    tests = [parse_where(clause, rows.schema) for clause in query.clauses()]
    texts = {field.name for field in rows.schema if pa.types.is_nested(field.type)}
    slow = [test for test in tests if texts & {*test.columns}]
    return [test for test in tests if test not in slow], slow


def _mask(rows: RowSet, tests: Sequence[Where]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.ones(rows.num_rows, dtype=np.bool_)
    for test in tests:
        mask &= _passes(test, rows.columns(test.columns), rows.num_rows)
    return mask


def _passes(test: Where, table: pa.Table, num_rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(num_rows, dtype=np.bool_)
    mask[test.rows(table).to_numpy()] = True
    return mask


def _search(
    rows: RowSet, tests: Sequence[Where], mask: np.ndarray[Any, np.dtype[np.bool_]], most: int
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], int]:
    """The rows of the mask that pass all tests, and up to which row it came; what is behind that is not in it."""
    names = sorted({name for test in tests for name in test.columns})
    said = tuple(test.text for test in tests)
    spent = 0
    for chunk in rows.chunks():
        inside = slice(chunk.first, chunk.first + chunk.num_rows)
        if not mask[inside].any():
            continue
        key = (rows.key, "search", said, chunk.first)
        if not rows.cache.has(key):
            cost = sum(chunk.num_bytes.get(name, 0) for name in names)
            if spent and spent + cost > most:
                mask[chunk.first :] = False
                return mask, chunk.first
            spent += cost
        mask[inside] &= rows.cache.get(key, functools.partial(_searched, rows, tests, chunk, names))
    return mask, rows.num_rows


def _searched(
    rows: RowSet, tests: Sequence[Where], chunk: Chunk, names: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    table = rows.read_chunk(chunk, names)
    mask = np.ones(chunk.num_rows, dtype=np.bool_)
    for test in tests:
        mask &= _passes(test, table, chunk.num_rows)
    return mask


def _ordered(rows: RowSet, found: Rows, query: Query) -> Rows:
    """By the column asked for: equal values in the order of the table, those without a value last either way."""
    if not query.sort:
        return found[::-1] if query.descending else found
    values = rows.column(query.sort).take(pa.array(found))
    direction = "descending" if query.descending else "ascending"
    indices = pc.sort_indices(pa.table({"value": values}), sort_keys=[("value", direction)])
    return np.asarray(found[indices.to_numpy()])
