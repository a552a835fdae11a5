"""One SELECT over all tables of a run (`sql`, `Run.sql`). See connection.py for what a query cannot do.

The tables are lazy: columns and row groups are read as a query needs them.
"""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from selfplay.core.errors import ConfigError
from selfplay.inspect.documents.rounds import rounds_document
from selfplay.inspect.query.connection import connect
from selfplay.inspect.query.tables import TABLES, rounds_with, scan, table_of
from selfplay.inspect.reading import SCHEMA_VERSION, finite
from selfplay.store.run import Store

NAMES = (*TABLES, "rounds")
_ALLOWED = ("SELECT", "EXPLAIN")
_HINT = f"Tables: {', '.join(NAMES)}; `describe pairs` lists the columns of one."


def sql_document(store: Store, query: str, limit: int | None = 1000) -> dict[str, Any]:
    """The document of `sql --json`: `columns` (name and SQL type), `rows` (a list of values each, in their order), and whether
    there are more than the `limit` that is shown (None: all). Raises ConfigError for an invalid query, SelfplayError where
    it fails."""
    with _asked(store, query) as (cursor, kind):
        if kind == "SELECT" and limit is not None:
            result = cursor.sql(query)
            columns = list(zip(result.columns, result.types, strict=True))
            rows = result.limit(limit + 1).fetchall()
        else:
            columns = [each[:2] for each in cursor.execute(query).description]
            rows = cursor.fetchall()
    shown = rows[:limit]
    return {
        "schema_version": SCHEMA_VERSION,
        "columns": [{"name": str(name), "type": str(kind)} for name, kind in columns],
        "num_rows": len(shown),
        "more": len(rows) > len(shown),
        "rows": finite([[plain(value) for value in row] for row in shown]),
    }


def sql_table(store: Store, query: str) -> pa.Table:
    """The result of a query as an Arrow table. Raises as `sql_document`."""
    with _asked(store, query) as (cursor, _):
        return cursor.sql(query).to_arrow_table()


def rounds_table(store: Store) -> pa.Table:
    """The numbers of every round. A column that no round has a value for is of numbers, so that it can be added up."""
    table = pa.Table.from_pylist(rounds_document(store)["rounds"])
    if not table.num_rows:
        return pa.table({"round": pa.array([], pa.int64())})
    empty = {field.name for field in table.schema if pa.types.is_null(field.type)}
    shape = pa.schema([field.with_type(pa.float64()) if field.name in empty else field for field in table.schema])
    return table.cast(shape)


def plain(value: Any) -> Any:
    """A value as JSON has it: whole numbers stay whole, times and identifiers are text, bytes are hexadecimal."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value)


@contextmanager
def _asked(store: Store, query: str) -> Iterator[tuple[Any, str]]:
    """A cursor that sees the run, and the kind of the one statement that the query is."""
    tables = {**{name: scan(store, name) for name in TABLES}, "rounds": rounds_table(store)}
    with connect(tables, _HINT, quote=True) as cursor:
        statements = cursor.extract_statements(query)
        if len(statements) != 1:
            raise ConfigError(f"{len(statements)} statements were given", "Give one SELECT.")
        kind = str(statements[0].type).rpartition(".")[2]
        if kind not in _ALLOWED:
            raise ConfigError(f"a {kind} statement is refused: a run is only read", "Give one SELECT.")
        # a query reads no table whose name it does not have
        for name in (name for name in TABLES if re.search(rf"\b{name}\b", query, re.IGNORECASE)):
            for number in rounds_with(store, name):
                table_of(store, number, name).check_size()
        yield cursor, kind
