"""Pages of a table: filtered, sorted and cut by DuckDB, which reads the columns that this takes.

A table may hold ten million rows. DuckDB gives the numbers of the rows of the page; the page itself is then taken from the row
groups that hold these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selfplay.core.errors import ConfigError
from selfplay.inspect.query.connection import MOST_SECONDS, connect, quoted
from selfplay.inspect.query.tables import dataset_of
from selfplay.inspect.query.where import EXAMPLE, ROW, Rows, Where, parse_where, relation, unknown_column
from selfplay.store.lazy_table import LazyTable


@dataclass(frozen=True, slots=True)
class Page:
    """`table`: the rows of the page, `rows` their numbers in the table; of `num_rows` in it, `num_matching` match."""

    num_rows: int
    num_matching: int
    rows: Rows
    table: pa.Table


def page_of(
    table: LazyTable,
    *,
    where: Where | str | None = None,
    sort: str | None = None,
    descending: bool = False,
    offset: int = 0,
    limit: int = 20,
    columns: Sequence[str] | None = None,
) -> Page:
    """Rows `offset` to `offset + limit` of those that match `where`, with `columns` (None: all), ordered by `sort`.

    Equal values keep the order of the table, rows without a value come last either way. Without `sort` the order is that of
    the table, reversed where `descending`. Raises ConfigError, CorruptionError.
    """
    schema = table.schema()
    condition = parse_where(where, schema) if isinstance(where, str) else where
    if sort is not None:
        _check_sort(schema, sort)
    if condition is None and sort is None:
        stop = min(offset + limit, table.num_rows)
        rows = np.arange(min(offset, stop), stop, dtype=np.int64)
        rows = table.num_rows - 1 - rows if descending else rows
        return Page(table.num_rows, table.num_rows, rows, table.take(rows, columns))
    num_matching, rows = _find(table, condition, _order(sort, descending=descending), sort, offset, limit)
    return Page(table.num_rows, num_matching, rows, table.take(rows, columns))


def ordered_rows(table: pa.Table, sort: str, *, descending: bool, seconds: float = MOST_SECONDS) -> Rows:
    """Numbers of the rows of a table in memory, in the order of `page_of`."""
    query = f"SELECT {ROW} FROM ({relation(table.schema)}) ORDER BY {_order(sort, descending=descending)}"
    with connect({"t": table}, EXAMPLE, seconds) as cursor:
        found = cursor.execute(query).fetchnumpy()
    return np.asarray(found[ROW], dtype=np.int64)


def _order(sort: str | None, *, descending: bool) -> str:
    direction = "DESC" if descending else "ASC"
    return f"{ROW} {direction}" if sort is None else f"{quoted(sort)} {direction} NULLS LAST, {ROW}"


def _find(
    table: LazyTable, condition: Where | None, order: str, sort: str | None, offset: int, limit: int
) -> tuple[int, Rows]:
    """How many rows match, and the numbers of those of the page, in its order."""
    kept = ROW if sort is None else f"{ROW}, {quoted(sort)}"
    page = f"SELECT {ROW} FROM matching ORDER BY {order} LIMIT {limit:d} OFFSET {offset:d}"
    query = f"WITH matching AS (SELECT {kept} FROM ({relation(table.schema())})) {page}"
    if condition is not None:
        # One pass over the table: its first row is the number of rows that match, the others are the page.
        query = (
            f"WITH matching AS MATERIALIZED (SELECT {kept} FROM ({relation(table.schema())}) WHERE {condition.sql}) "
            f"SELECT count(*) AS {ROW} FROM matching UNION ALL SELECT {ROW} FROM ({page})"
        )
    read = [*(() if condition is None else condition.columns), *(() if sort is None else (sort,))]
    with connect({"t": dataset_of(table, read)}, EXAMPLE) as cursor:
        found = np.asarray(cursor.execute(query).fetchnumpy()[ROW], dtype=np.int64)
    return (table.num_rows, found) if condition is None else (int(found[0]), found[1:])


def _check_sort(schema: pa.Schema, column: str) -> None:
    able = [field.name for field in schema if not pa.types.is_nested(field.type)]
    if column not in schema.names:
        raise unknown_column(column, able)
    if column not in able:
        raise ConfigError(f"the table cannot be sorted by {column!r}", f"Columns: {', '.join(able)}.")
