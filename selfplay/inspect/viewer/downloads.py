"""The filtered pairs as a file, streamed one row group at a time."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import ConfigError
from selfplay.core.escape import csv_cell
from selfplay.inspect.reading import finite
from selfplay.inspect.viewer.matching import stream
from selfplay.inspect.viewer.query import Query
from selfplay.inspect.viewer.rows import RowSet

# rows of Python objects at a time
_BATCH = 256


def download(rows: RowSet, query: Query, form: str) -> tuple[str, Iterator[bytes]]:
    """Content type and content. In the order of the table, which is that of the ranks, whatever the page is sorted by.
    Raises ConfigError for an unknown form or an invalid filter."""
    if form not in _FORMS:
        raise ConfigError(f"format={form!r} is unknown", f"Available: {', '.join(_FORMS)}.")
    kind, write = _FORMS[form]
    return kind, write(rows.schema, stream(rows, query))


def file_name(name: str, form: str) -> str:
    """A name that is safe in a header and on a disk."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name).strip('._') or 'pairs'}.{form}"


def _jsonl(schema: pa.Schema, tables: Iterator[pa.Table]) -> Iterator[bytes]:
    for table in tables:
        for start in range(0, table.num_rows, _BATCH):
            rows = table.slice(start, _BATCH).to_pylist()
            yield "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows).encode(errors="replace")


def _csv(schema: pa.Schema, tables: Iterator[pa.Table]) -> Iterator[bytes]:
    """For spreadsheets: conversations are JSON in their cell, and no text is a formula (JSONL and Parquet are exact)."""
    yield _csv_lines([[csv_cell(name) for name in schema.names]])
    for table in tables:
        for start in range(0, table.num_rows, _BATCH):
            rows = table.slice(start, _BATCH).to_pylist()
            yield _csv_lines([[csv_cell(value) for value in row.values()] for row in rows])


def _csv_lines(rows: list[list[Any]]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\r\n").writerows(rows)
    return sink.getvalue().encode(errors="replace")


def _parquet(schema: pa.Schema, tables: Iterator[pa.Table]) -> Iterator[bytes]:
    sink = io.BytesIO()

    def written() -> bytes:
        # Arrow counts the offsets of a file itself, so that what was sent can be discarded
        data = sink.getvalue()
        sink.seek(0)
        sink.truncate()
        return data

    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
            yield written()
    yield written()


_FORMS: dict[str, tuple[str, Callable[[pa.Schema, Iterator[pa.Table]], Iterator[bytes]]]] = {
    "jsonl": ("application/x-ndjson", _jsonl),
    "csv": ("text/csv; charset=utf-8", _csv),
    "parquet": ("application/vnd.apache.parquet", _parquet),
}
FORMS = tuple(_FORMS)
