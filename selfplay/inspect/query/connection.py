"""The one DuckDB connection of all queries. It sees the Arrow tables that a query registers and nothing else.

The database is in memory and locked: external access is off, no extension is installed or loaded, no setting can be changed,
nothing spills to disk, memory and threads are bounded. Parquet files are read by pyarrow, which verifies the checksums of
their pages; DuckDB itself does not.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb

from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError

MOST_MEMORY = 4 << 30
# of a query in a terminal or in Python; a page of the viewer has less
MOST_SECONDS = 600.0


@contextmanager
def connect(
    tables: Mapping[str, Any], hint: str = "", seconds: float = MOST_SECONDS, *, quote: bool = False
) -> Iterator[Any]:
    """A DuckDB cursor that sees `tables`: name -> pyarrow Table, RecordBatchReader or Dataset.

    `hint` goes with the errors of invalid SQL, which quote the query only where `quote` says that it is the user's own. A
    query that runs longer than `seconds` is interrupted. Raises ConfigError for
    invalid SQL, CorruptionError for a damaged file, SelfplayError where memory or time runs out.
    """
    cursor = _database(min(MOST_MEMORY, _half_of_memory())).cursor()
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.start()
    try:
        for name, table in tables.items():
            cursor.register(name, table)
        yield cursor
    except duckdb.InterruptException:
        raise SelfplayError(
            f"the query was interrupted after {seconds:.0f} s",
            "Select fewer rounds or columns, or use a narrower filter (`selfplay sql` in a terminal has ten minutes).",
        ) from None
    except duckdb.Error as error:
        raise _explained(error, hint, quote=quote) from None
    finally:
        timer.cancel()
        cursor.close()


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@functools.lru_cache(maxsize=1)
def _database(num_bytes: int) -> Any:
    # Tables are registered on a cursor as temporary views: one cursor does not see those of another.
    database = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "memory_limit": f"{num_bytes >> 20}MiB",
            "threads": str(len(os.sched_getaffinity(0))),
        },
    )
    database.execute("SET lock_configuration = true")
    return database


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _explained(error: Exception, hint: str, *, quote: bool) -> SelfplayError:
    message = (str(error) if quote else str(error).partition("\n\nLINE ")[0]).strip()
    if isinstance(error, duckdb.PermissionException):
        return ConfigError(message, "A query sees the tables of the run and nothing else.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return SelfplayError(message, "Select fewer columns or one round: where round = 1.")
    # pyarrow reads the tables; DuckDB quotes its errors
    of_reading = isinstance(error, (duckdb.InvalidInputException, duckdb.IOException))
    if of_reading and any(word in message for word in ("registered as", "Arrow", "Parquet")):
        return CorruptionError(
            f"a table cannot be read: {message}", "`selfplay verify RUN --deep` reports which file is damaged."
        )
    return ConfigError(message, hint)
