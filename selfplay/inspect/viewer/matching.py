"""The pairs that a query asks for. Conditions on numbers are evaluated on columns that are kept in memory; conditions on texts on
the rows that are left, which are read for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from selfplay.inspect.query.paging import ordered_rows
from selfplay.inspect.query.where import Rows, Where, parse_where
from selfplay.inspect.viewer.query import Query
from selfplay.inspect.viewer.rows import RowSet

SECONDS = 20.0
"""A query that takes longer is interrupted."""


def find(rows: RowSet, query: Query) -> Rows:
    """Numbers of the rows of a query, in its order. Raises ConfigError for an invalid filter, CorruptionError, SelfplayError for
    one that takes too long."""
    key = (rows.key, "found", tuple(query.clauses()), query.sort, query.descending)
    return rows.cache.get(key, lambda: _ordered(rows, query))


def stream(rows: RowSet, query: Query) -> Iterator[pa.Table]:
    """All rows of a query as tables, row group by row group in the order of the table. Raises as `find`, before the first."""
    return rows.parts.row_groups(np.sort(find(rows, query)))


def _ordered(rows: RowSet, query: Query) -> Rows:
    found = _matching(rows, query)
    if query.sort:
        values = rows.columns([query.sort]).take(pa.array(found))
        return found[ordered_rows(values, query.sort, descending=query.descending, seconds=SECONDS)]
    return found[::-1] if query.descending else found


def _matching(rows: RowSet, query: Query) -> Rows:
    """The rows that match, ascending."""
    conditions = [parse_where(clause, rows.schema) for clause in query.clauses()]
    texts = {field.name for field in rows.schema if pa.types.is_nested(field.type)}
    on_texts = [condition for condition in conditions if texts.intersection(condition.columns)]
    found = np.arange(rows.num_rows, dtype=np.int64)
    if others := Where.all_of([condition for condition in conditions if condition not in on_texts]):
        found = others.rows(rows.columns(others.columns), SECONDS)
    if condition := Where.all_of(on_texts):
        tables = rows.parts.row_groups(found, condition.columns)
        batches = (batch for table in tables for batch in table.to_batches())
        schema = pa.schema([rows.schema.field(name) for name in condition.columns])
        found = found[condition.rows(pa.RecordBatchReader.from_batches(schema, batches), SECONDS)]
    return found
