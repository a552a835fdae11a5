"""SQL over the tables of a run, by DuckDB, which is let near nothing else (`sql`).

It runs in memory, with external access off: no file is read or written, nothing attached, no extension installed or loaded, no
setting changed, no variable of this process seen; memory and threads are bounded and nothing spills to disk. The
tables are lazy: columns and row groups are read as a query needs them. One statement, a SELECT (or EXPLAIN), is taken.
"""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Iterator
from typing import Any

from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError
from selfplay.inspect.query.paging import TABLES
from selfplay.inspect.query.scanning import rounds_table, scan
from selfplay.inspect.reading import SCHEMA_VERSION, finite
from selfplay.store.run import Store

NAMES = (*TABLES, "rounds")
MOST_MEMORY = 4 << 30
_BATCH = 10_000
_ALLOWED = ("SELECT", "EXPLAIN")


def sql_document(store: Store, query: str, limit: int | None = 1000) -> dict[str, Any]:
    """The document of `sql --json`: `columns` (name and SQL type), `rows` (a list of values each, in their order), and whether
    there are more than the `limit` that is shown (None: all). Raises ConfigError for a query that is refused or
    wrong, SelfplayError where it fails."""
    columns, rows = run_query(store, query, None if limit is None else limit + 1)
    found = list(rows)
    more = limit is not None and len(found) > limit
    return {
        "schema_version": SCHEMA_VERSION,
        "columns": columns,
        "num_rows": len(found[:limit]),
        "more": more,
        "rows": finite([[plain(value) for value in row] for row in found[:limit]]),
    }


def run_query(store: Store, query: str, limit: int | None) -> tuple[list[dict[str, str]], Iterator[tuple[Any, ...]]]:
    """Columns (name, SQL type) and rows of a query, `limit` at most; without one they come as they are asked for."""
    duckdb = _duckdb()
    connection = _locked_down(duckdb, store)
    try:
        kind = _only_statement(connection.extract_statements(query))
        if kind == "SELECT" and limit is not None:
            relation = connection.sql(query)
            columns = _columns(zip(relation.columns, relation.types, strict=True))
            return columns, iter(relation.limit(limit).fetchall())
        result = connection.execute(query)
        return _columns((each[0], each[1]) for each in result.description), _fetched(duckdb, result)
    except duckdb.Error as error:
        raise _explained(duckdb, error) from None


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


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("`selfplay sql` needs DuckDB", "Install it: pip install 'selfplay[sql]'.") from None
    return duckdb


def _locked_down(duckdb: Any, store: Store) -> Any:
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "memory_limit": f"{min(MOST_MEMORY, _half_of_memory()) >> 20}MiB",
            "threads": str(len(os.sched_getaffinity(0))),
        },
    )
    for name in TABLES:
        connection.register(name, scan(store, name))
    connection.register("rounds", rounds_table(store))
    connection.execute("SET lock_configuration = true")
    return connection


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _only_statement(statements: Any) -> str:
    if len(statements) != 1:
        raise ConfigError(f"{len(statements)} statements were given", "Give one SELECT.")
    kind = str(statements[0].type).rpartition(".")[2]
    if kind not in _ALLOWED:
        raise ConfigError(f"a {kind} statement is refused: a run is only read", "Give one SELECT.")
    return kind


def _columns(found: Any) -> list[dict[str, str]]:
    return [{"name": str(name), "type": str(kind)} for name, kind in found]


def _fetched(duckdb: Any, result: Any) -> Iterator[tuple[Any, ...]]:
    try:
        while rows := result.fetchmany(_BATCH):
            yield from rows
    except duckdb.Error as error:
        raise _explained(duckdb, error) from None


def _explained(duckdb: Any, error: Exception) -> SelfplayError:
    said = str(error).strip()
    if isinstance(error, duckdb.PermissionException):
        return ConfigError(said, "A query sees the tables of the run and nothing else.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return SelfplayError(said, "Select fewer columns or one round: where round = 1.")
    # a damaged file is met by the reader of the tables, which DuckDB quotes
    of_reading = isinstance(error, (duckdb.InvalidInputException, duckdb.IOException))
    if of_reading and any(word in said for word in ("registered as", "Arrow", "Parquet")):
        return CorruptionError(
            f"a table cannot be read: {said}", "`selfplay verify RUN --deep` says which file is damaged."
        )
    return ConfigError(said, f"Tables: {', '.join(NAMES)}; `describe pairs` lists the columns of one.")
