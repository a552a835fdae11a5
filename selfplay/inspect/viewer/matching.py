"""The pairs that a query asks for. Conditions on numbers are evaluated on whole columns; conditions on texts on one row group
after the other, as many as one request may read: the page reports how far it came, and the next request continues from there.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selfplay.inspect.query.paging import ordered_rows
from selfplay.inspect.query.where import Rows, Where, parse_where
from selfplay.inspect.viewer.query import Query
from selfplay.inspect.viewer.rows import Chunk, RowSet

SEARCHED_BYTES = 32 << 20
"""Bytes of text that one request searches."""
SECONDS = 20.0
"""A request whose filter takes longer is interrupted."""


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that match, in the order asked for. `num_searched` rows of the table were looked at: all of them, unless a
    search in texts is not finished."""

    rows: Rows
    num_searched: int
    num_rows: int

    @property
    def complete(self) -> bool:
        """Whether these are all."""
        return self.num_searched == self.num_rows


def find(rows: RowSet, query: Query, searched_bytes: int = SEARCHED_BYTES) -> Found:
    """The pairs of a query. Raises ConfigError for an invalid filter, CorruptionError."""
    key = (rows.key, "found", tuple(query.clauses()), query.sort, query.descending)

    def make() -> Found:
        fast, slow = _conditions(rows, query)
        if slow is None:
            return Found(_ordered(rows, fast, query), rows.num_rows, rows.num_rows)
        found, until = _search(rows, slow, _candidates(rows, fast), searched_bytes)
        if query.sort:
            values = rows.columns([query.sort]).take(pa.array(found))
            found = found[ordered_rows(values, None, query.sort, descending=query.descending, seconds=SECONDS)]
        return Found(found[::-1] if query.descending and not query.sort else found, until, rows.num_rows)

    # An unfinished search is not kept: the next request continues it from the row groups that were searched.
    return rows.cache.get(key, make, lambda found: found.rows.nbytes if found.complete else rows.cache.too_large)


def stream(rows: RowSet, query: Query) -> Iterator[pa.Table]:
    """All rows of a query as tables, row group by row group in the order of the table; nothing is kept."""
    fast, slow = _conditions(rows, query)
    candidates = _candidates(rows, fast)
    for chunk in rows.chunks():
        inside = _inside(candidates, chunk)
        if not len(inside):
            continue
        table = rows.read_chunk(chunk, rows.schema.names).take(pa.array(inside - chunk.first))
        if slow is not None:
            table = table.take(pa.array(slow.rows(table, SECONDS)))
        if table.num_rows:
            yield table


def _conditions(rows: RowSet, query: Query) -> tuple[Where | None, Where | None]:
    """The condition on numbers, and that on texts."""
    conditions = [parse_where(clause, rows.schema) for clause in query.clauses()]
    texts = {field.name for field in rows.schema if pa.types.is_nested(field.type)}
    slow = [condition for condition in conditions if texts.intersection(condition.columns)]
    fast = [condition for condition in conditions if condition not in slow]
    return _all(fast), _all(slow)


def _all(conditions: Sequence[Where]) -> Where | None:
    return functools.reduce(operator.and_, conditions) if conditions else None


def _ordered(rows: RowSet, condition: Where | None, query: Query) -> Rows:
    names = [*(condition.columns if condition else ()), *([query.sort] if query.sort else ())]
    if not names:
        every = np.arange(rows.num_rows, dtype=np.int64)
        return every[::-1] if query.descending else every
    return ordered_rows(
        rows.columns(names), condition, query.sort or None, descending=query.descending, seconds=SECONDS
    )


def _candidates(rows: RowSet, condition: Where | None) -> Rows:
    if condition is None:
        return np.arange(rows.num_rows, dtype=np.int64)
    return condition.rows(rows.columns(condition.columns), SECONDS)


def _inside(candidates: Rows, chunk: Chunk) -> Rows:
    """Those of the ascending row numbers that lie in a row group."""
    start, stop = np.searchsorted(candidates, [chunk.first, chunk.first + chunk.num_rows])
    return candidates[start:stop]


def _search(rows: RowSet, condition: Where, candidates: Rows, most: int) -> tuple[Rows, int]:
    """The candidates that match, and the row up to which was searched."""
    spent, found = 0, [np.array([], dtype=np.int64)]
    for chunk in rows.chunks():
        inside = _inside(candidates, chunk)
        if not len(inside):
            continue
        key = (rows.key, "search", condition.sql, chunk.first)
        if not rows.cache.has(key):
            cost = sum(chunk.num_bytes.get(name, 0) for name in condition.columns)
            if spent and spent + cost > most:
                return np.concatenate(found), chunk.first
            spent += cost
        matching = rows.cache.get(key, functools.partial(_searched, rows, condition, chunk))
        found.append(inside[np.isin(inside, matching, assume_unique=True)])
    return np.concatenate(found), rows.num_rows


def _searched(rows: RowSet, condition: Where, chunk: Chunk) -> Rows:
    return chunk.first + condition.rows(rows.read_chunk(chunk, condition.columns), SECONDS)
