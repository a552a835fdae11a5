"""Pages of a table of a round: filtered, sorted and cut, with only the columns that this takes read, file by file.

A table may hold ten millions of rows. What is kept in memory are row numbers and sort values of the best rows so far; the
page's rows are then taken from the row groups they lie in.
"""

from __future__ import annotations

import difflib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import ConfigError
from selfplay.inspect.query.where import Where, parse_where
from selfplay.inspect.reading import require_round
from selfplay.store.lazy_table import Part, Parts
from selfplay.store.run import Store

# name of a table -> the stage that writes it
TABLES = {
    "prompts": "prompts", "responses": "sample", "rewards": "score", "unused": "pair", "logprobs": "logprobs",
    "pairs": "select", "evaluation": "evaluate",
}  # fmt: skip
# parts read ahead of the one that is looked at
_AHEAD = 2
# how many rows more than asked for are gathered before the worst are let go
_SLACK = 20_000

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Page:
    """`table`: the rows of the page, `rows` their numbers in the table; of `num_rows` in it, `num_matching` match."""

    num_rows: int
    num_matching: int
    rows: Rows
    table: pa.Table


def parts_of(store: Store, round_number: int, name: str) -> Parts:
    """The files of a table of TABLES. Raises ConfigError for a name or a round that is not there, CorruptionError."""
    if name not in TABLES:
        raise ConfigError(f"there is no table {name!r}", f"Tables: {', '.join(TABLES)}.")
    stage = TABLES[name]
    require_round(store, round_number, stage)
    return Parts.of(store.layout.stage(round_number, stage), store.commit_of(round_number, stage).files)


def page(
    store: Store,
    round_number: int,
    name: str,
    *,
    where: Where | str | None = None,
    sort: str | None = None,
    descending: bool = False,
    offset: int = 0,
    limit: int = 20,
    columns: Sequence[str] | None = None,
) -> Page:
    """A page of a table of a round; see `page_of`."""
    parts = parts_of(store, round_number, name)
    return page_of(parts, where=where, sort=sort, descending=descending, offset=offset, limit=limit, columns=columns)


def page_of(
    parts: Parts,
    *,
    where: Where | str | None = None,
    sort: str | None = None,
    descending: bool = False,
    offset: int = 0,
    limit: int = 20,
    columns: Sequence[str] | None = None,
) -> Page:
    """Rows `offset` to `offset + limit` of those that match `where` (see `where.py`), with `columns` (None: all), ordered by
    `sort`. Equal values keep the order of the table, rows without a value come last either way; without `sort` it is
    the order of the table, from its end where `descending`. Raises ConfigError, CorruptionError."""
    num_matching, rows = find_rows(parts, where=where, sort=sort, descending=descending, offset=offset, limit=limit)
    return Page(parts.num_rows, num_matching, rows, parts.take(rows, columns))


def find_rows(
    parts: Parts,
    *,
    where: Where | str | None = None,
    sort: str | None = None,
    descending: bool = False,
    offset: int = 0,
    limit: int = 20,
) -> tuple[int, Rows]:
    """How many rows match, and the numbers of those of the page, in its order."""
    schema = parts.schema()
    test = parse_where(where, schema) if isinstance(where, str) else where
    if sort is not None:
        _check_sort(schema, sort)
        return _sorted(parts, test, sort, descending, offset, limit)
    if test is None:
        stop = min(offset + limit, parts.num_rows)
        rows = np.arange(min(offset, stop), stop, dtype=np.int64)
        return parts.num_rows, parts.num_rows - 1 - rows if descending else rows
    return _in_order(parts, test, descending, offset, limit)


def matching(parts: Parts, test: Where | None, columns: Sequence[str] = ()) -> Iterator[tuple[Rows, pa.Table]]:
    """Part by part, in order: the numbers of the rows that match (None: all), and these columns of them. Parts are read in
    threads, a few ahead."""
    yield from _read(parts, parts.parts, test, columns)


def _read(
    parts: Parts, order: Sequence[Part], test: Where | None, columns: Sequence[str]
) -> Iterator[tuple[Rows, pa.Table]]:
    names = list(dict.fromkeys([*columns, *(test.columns if test else ())]))

    def read(part: Part) -> tuple[Rows, pa.Table]:
        if not names:
            return np.arange(part.num_rows), pa.table({})
        table = parts.read(part, names)
        wanted = table.select(list(columns))
        if test is None:
            return np.arange(part.num_rows), wanted
        rows = test.rows(table)
        return rows.to_numpy(), wanted.take(rows) if columns else wanted

    threads = min(len(os.sched_getaffinity(0)), 8)
    under_way: deque[tuple[Part, Future[tuple[Rows, pa.Table]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part in order:
                under_way.append((part, pool.submit(read, part)))
                if len(under_way) >= threads + _AHEAD:
                    yield _numbered(*under_way.popleft())
            while under_way:
                yield _numbered(*under_way.popleft())
        finally:
            for _, future in under_way:
                future.cancel()


def _numbered(part: Part, future: Future[tuple[Rows, pa.Table]]) -> tuple[Rows, pa.Table]:
    rows, table = future.result()
    return part.first + rows, table


def _in_order(parts: Parts, test: Where, descending: bool, offset: int, limit: int) -> tuple[int, Rows]:
    order = parts.parts[::-1] if descending else parts.parts
    seen, found = 0, []
    for inside, _ in _read(parts, order, test, ()):
        wanted = (inside[::-1] if descending else inside)[max(offset - seen, 0) : max(offset + limit - seen, 0)]
        seen += len(inside)
        if len(wanted):
            found.append(wanted)
    return seen, np.concatenate(found) if found else np.array([], dtype=np.int64)


def _sorted(
    parts: Parts, test: Where | None, column: str, descending: bool, offset: int, limit: int
) -> tuple[int, Rows]:
    most, seen = offset + limit, 0
    best = _Best(max(most, 1), descending)
    for rows, table in _read(parts, parts.parts, test, (column,)):
        seen += len(rows)
        best.add(table.column(0), rows)
    return seen, best.rows()[offset:most]


class _Best:
    """The first `most` rows in the order of a column, of rows that come in ascending order of their numbers."""

    def __init__(self, most: int, descending: bool) -> None:
        self._most = most
        self._keys = [("value", "descending" if descending else "ascending")]
        self._better = pc.greater_equal if descending else pc.less_equal
        self._worst: pa.Scalar | None = None
        self._found: pa.Table | None = None

    def add(self, values: pa.ChunkedArray, rows: Rows) -> None:
        table = pa.table({"value": values, "row": rows})
        if self._worst is not None:
            # rows of the same value that come later lose, but they are few
            table = table.filter(self._better(table["value"], self._worst))
        self._found = table if self._found is None else pa.concat_tables([self._found, table])
        enough = self._most if self._worst is None else self._most + max(self._most, _SLACK)
        if self._found.num_rows > enough:
            self._found = self._first(self._found)
            last = self._found["value"][-1]
            if last.is_valid and last.as_py() == last.as_py():  # not NaN
                self._worst = last

    def rows(self) -> Rows:
        if self._found is None:
            return np.array([], dtype=np.int64)
        return np.asarray(self._first(self._found)["row"].to_numpy())

    def _first(self, table: pa.Table) -> pa.Table:
        # a stable sort that puts null last either way
        return table.take(pc.sort_indices(table, sort_keys=self._keys)[: self._most])


def _check_sort(schema: pa.Schema, column: str) -> None:
    able = [field.name for field in schema if not pa.types.is_nested(field.type)]
    if column in able:
        return
    near = difflib.get_close_matches(column, able, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(f"the table cannot be sorted by {column!r}", f"{hint}Columns: {', '.join(able)}.")
