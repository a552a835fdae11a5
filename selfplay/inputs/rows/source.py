"""An opened source and its rows: row by row for every format, and as Arrow tables where it is kept in columns.

Row numbers are 1-based: in JSON Lines the line of the file (blank lines count, but are not rows), elsewhere the record
(a CSV's header does not count). Only a Hub dataset needs `datasets`, which is imported when one is opened.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import DataError
from selfplay.core.json_text import parse_json
from selfplay.inputs.rows.class_labels import row_with_names, schema_with_names, with_names
from selfplay.inputs.rows.file_names import COMPRESSIONS, file_format
from selfplay.inputs.rows.files import WHAT_IS_READ, file_digest, local_path, source_files, source_labels
from selfplay.inputs.rows.unfolded import MAX_DOCUMENT, MAX_LINE, UNFOLDS, Unfolded, bounded_lines
from selfplay.store.unfolding import MemoryBudget, UnfoldingError

_BATCH = 1024
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: its file and number, and either its values or its problem.

    Example: SourceRow("train.jsonl", 17, {"question": "Say hello."}, None)
    """

    file: str
    row: int
    values: dict[str, Any] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source: its data files in reading order or, without files, a Hub dataset and the names it was opened
    with (`hub_key`). `name` is what messages call it, `labels` what the folder's card says of columns with labels."""

    name: str
    files: Sequence[Path]
    hub: Any = None
    hub_key: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_arrow(self) -> bool:
        """Whether it is kept in columns (Parquet, Arrow, the Hub's cache): `schemas` and `tables` work."""
        return self.hub is not None or all(file_format(file) in ("parquet", "arrow") for file in self.files)

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the source's own order. A row that cannot be read comes with its problem. Raises DataError for a
        file that cannot be read as a whole."""
        if self.is_arrow:
            for file, first, table in self.tables(batch_size=_BATCH):
                yield from _table_rows(file, first, table)
            return
        for path in self.files:
            with _readable(path):
                for row in _read_file(path):
                    yield replace(row, values=row_with_names(row.values, self.labels)) if self.labels else row

    def headers(self) -> list[str] | None:
        """The names of the columns of CSV and TSV files; None for other formats. Raises DataError for two of one name."""
        if self.is_arrow or not all(file_format(file) in ("csv", "tsv") for file in self.files):
            return None
        names: list[str] = []
        for path in self.files:
            with _readable(path), _open(path) as file:
                names += _csv_header(path.name, _csv_reader(path, file)) or []
        return names

    def schemas(self) -> list[pa.Schema] | None:
        """The Arrow schema of every file (of a Hub dataset: the one); None where `is_arrow` is false. Raises DataError for two
        columns of one name."""
        if self.hub is not None:
            return [schema_with_names(self.hub.data.table.schema, self.labels)]
        if not self.is_arrow:
            return None
        found = []
        for path in self.files:
            with _readable(path), _arrow_file(path) as (file, _):
                schema = file.schema_arrow if isinstance(file, pq.ParquetFile) else file.schema
            _refuse_repeated_names(path.name, schema.names)
            found.append(schema_with_names(schema, self.labels))
        return found

    def tables(
        self, columns: Sequence[str] | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[str, int, pa.Table]]:
        """The rows as Arrow tables, each with its file and the number of its first row. Labels are their names. `columns`: only
        these. `batch_size`: at most so many rows in a table, else tables as they are stored. For sources in columns."""
        names = None if columns is None else list(columns)
        if self.hub is not None:
            dataset, first = self.hub if names is None else self.hub.select_columns(names), 1
            for table in dataset.with_format("arrow").iter(batch_size=batch_size or 100_000):
                yield self.name, first, with_names(table, self.labels)
                first += table.num_rows
        for path in self.files:
            first = 1
            with _readable(path), _arrow_file(path) as (file, content):
                budget = MemoryBudget([path])
                for table in _tables(file, content, names, batch_size, budget):
                    yield path.name, first, with_names(table, self.labels)
                    first += table.num_rows

    def digest(self) -> str:
        """sha256 (hex) that changes when the content does: of a file's bytes, of a folder's data files with their
        names and the labels of its card, of a Hub dataset's fingerprint (its builder, revision and files, as `datasets`
        tracks them)."""
        if self.hub is not None:
            return hashlib.sha256(f"{self.hub_key} {self.hub._fingerprint}".encode()).hexdigest()
        if len(self.files) == 1 and self.files[0].suffix != ".arrow" and not self.labels:
            return file_digest(self.files[0])
        total = hashlib.sha256(json.dumps(self.labels, sort_keys=True).encode() if self.labels else b"")
        for file in self.files:
            total.update(f"{file.name} {file_digest(file)}\n".encode())
        return total.hexdigest()


def open_source(
    source: str,
    split: str | None = None,
    base_dir: str | Path = ".",
    *,
    subset: str | None = None,
    revision: str | None = None,
) -> Source:
    """Find the files of a source, or load a Hub dataset; no file is read.

    `source` is a path, relative to `base_dir`, or the name of a `datasets` dataset (then `split` is required,
    `subset` and `revision` are allowed). A folder of several splits takes `split` too, and one whose dataset card names subsets
    takes `subset`. Raises DataError for a source that does not exist and for a setting that would do nothing.
    """
    path = local_path(source, base_dir)
    if path is None:
        return Source(f"{source}:{split}", (), _load_hub(source, split, subset, revision), f"{source} {subset} {split}")
    if revision is not None:
        raise DataError(f"{path} is local: it has no revision", "Remove the setting.")
    return Source(str(path), source_files(path, split, subset), labels=source_labels(path, subset))


def source_digest(
    source: str,
    split: str | None = None,
    base_dir: str | Path = ".",
    *,
    subset: str | None = None,
    revision: str | None = None,
) -> str:
    """`Source.digest` of a source; the arguments are those of `open_source`."""
    return open_source(source, split, base_dir, subset=subset, revision=revision).digest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns the errors of readers for a damaged file into a DataError that names it."""
    try:
        yield
    except UnfoldingError as error:
        raise DataError(f"{path} is not read: {error}", UNFOLDS) from None
    except (OSError, EOFError, pa.ArrowException, csv.Error) as error:
        if "field larger than field limit" in str(error):
            raise DataError(f"{path} is not read: it has a field of more than {MAX_LINE >> 20} MB", UNFOLDS) from None
        raise DataError(
            f"{path} cannot be read: {error}", "Check that the file is complete and matches its suffix."
        ) from error


def _open(path: Path) -> Any:
    """The uncompressed bytes of a file."""
    compression = COMPRESSIONS.get(path.suffix)
    stream = pa.input_stream(str(path), compression=compression)
    file = io.BufferedReader(stream if compression is None else Unfolded(stream, MemoryBudget([path])), 1 << 18)
    if file.peek(2)[:2] in _UTF_16:
        raise DataError(f"{path} is UTF-16, which is not read", "Save it as UTF-8.")
    return file


@contextmanager
def _arrow_file(path: Path) -> Iterator[tuple[Any, Any]]:
    """A Parquet file, or a reader of an Arrow file or stream, and its bytes."""
    if path.suffix in COMPRESSIONS:
        with _open(path) as packed:
            content = pa.BufferReader(packed.read())
    else:
        content = pa.OSFile(str(path)) if file_format(path) == "parquet" else pa.memory_map(str(path))
    with content:
        if file_format(path) == "parquet":
            yield pq.ParquetFile(content), content
            return
        try:
            reader = pa.ipc.open_file(content)
        except pa.ArrowInvalid:  # `datasets` writes streams
            content.seek(0)
            reader = pa.ipc.open_stream(content)
        yield reader, content


def _tables(
    file: Any, content: Any, columns: list[str] | None, batch_size: int | None, budget: MemoryBudget
) -> Iterator[pa.Table]:
    if isinstance(file, pq.ParquetFile):
        for group in range(file.num_row_groups):
            budget.check_row_group(content, file.metadata, group, columns)
            if batch_size is None:
                tables = iter([file.read_row_group(group, columns=columns)])
            else:
                batches = file.iter_batches(batch_size=batch_size, row_groups=[group], columns=columns)
                tables = (pa.Table.from_batches([batch]) for batch in batches)
            for table in tables:
                budget.charge_table(table)
                yield table
    else:
        is_stream = isinstance(file, pa.RecordBatchStreamReader)
        for batch in file if is_stream else map(file.get_batch, range(file.num_record_batches)):
            table = pa.Table.from_batches([batch])
            budget.charge_table(table)
            table = table if columns is None else table.select(columns)
            for start in range(0, table.num_rows, batch_size or table.num_rows):
                yield table.slice(start, batch_size)


def _table_rows(file: str, first: int, table: pa.Table) -> Iterator[SourceRow]:
    try:
        rows = table.to_pylist()
    except (ValueError, OverflowError):
        rows = None
    if rows is not None:
        for number, values in enumerate(rows, first):
            yield SourceRow(file, number, values, None)
        return
    # One value that Python cannot hold (bytes that are not UTF-8) makes one bad row, not a bad file.
    for index in range(table.num_rows):
        try:
            yield SourceRow(file, first + index, table.slice(index, 1).to_pylist()[0], None)
        except UnicodeDecodeError:
            yield SourceRow(file, first + index, None, "not UTF-8")
        except (ValueError, OverflowError) as error:
            yield SourceRow(file, first + index, None, f"not convertible: {error}")


def _read_file(path: Path) -> Iterator[SourceRow]:
    kind = file_format(path)
    with _open(path) as file:
        if kind == "jsonl":
            yield from _read_json_lines(path.name, file)
        elif kind == "json":
            if path.stat().st_size > MAX_DOCUMENT:
                raise UnfoldingError(
                    f"it is a JSON document of more than {MAX_DOCUMENT >> 30} GB, which is read as a whole"
                )
            yield from _read_json(path, file.read())
        else:
            yield from _read_csv(path, file)


def _read_json_lines(name: str, file: Any) -> Iterator[SourceRow]:
    for number, line in enumerate(bounded_lines(file), 1):
        content = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if not content:
            continue
        try:
            value = parse_json(content)
        except UnicodeDecodeError:
            yield SourceRow(name, number, None, "not UTF-8")
        except ValueError as error:
            yield SourceRow(name, number, None, f"not valid JSON: {error}")
        else:
            yield _json_row(name, number, value)


def _read_json(path: Path, content: bytes) -> Iterator[SourceRow]:
    """A JSON array of objects, an object with such an array under "data", or JSON Lines in a file named .json."""
    try:
        value = parse_json(content.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "Save it as UTF-8.") from error
    except ValueError as error:  # also an integer of thousands of digits, lists nested too deep
        if getattr(error, "msg", "") == "Extra data" and content.lstrip().startswith(b"{"):
            yield from _read_json_lines(path.name, io.BytesIO(content))
            return
        raise DataError(f"{path} is not valid JSON: {error}", "Fix the file, or write one object a line.") from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{path} is neither a list of objects nor an object with a list under 'data'", WHAT_IS_READ)
    for number, row in enumerate(value, 1):
        yield _json_row(path.name, number, row)


def _json_row(name: str, number: int, value: Any) -> SourceRow:
    if isinstance(value, dict):
        return SourceRow(name, number, value, None)
    return SourceRow(name, number, None, f"not a JSON object but {type(value).__name__}")


def _csv_reader(path: Path, file: Any) -> Any:
    # A long response is longer than the module's limit of 131,072 characters a field.
    csv.field_size_limit(MAX_LINE)
    # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row is one bad row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    return csv.reader(bounded_lines(text), delimiter="\t" if file_format(path) == "tsv" else ",", strict=True)


def _csv_header(name: str, reader: Any) -> list[str] | None:
    header: list[str] | None = next(reader, None)
    if header is not None:
        _refuse_repeated_names(name, header)
    return header


def _read_csv(path: Path, file: Any) -> Iterator[SourceRow]:
    reader = _csv_reader(path, file)
    header = _csv_header(path.name, reader)
    if header is None:
        return
    for number, record in enumerate((record for record in reader if record), 1):
        if len(record) != len(header):
            yield SourceRow(path.name, number, None, f"{len(record)} fields, the header has {len(header)}")
        else:
            yield SourceRow(path.name, number, dict(zip(header, record, strict=True)), None)


def _refuse_repeated_names(file: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file} has two columns called {repeated!r}", "Rename one of them.")


def _load_hub(source: str, split: str | None, subset: str | None, revision: str | None) -> Any:
    if split is None:
        raise DataError(
            f"{source!r} is not a file here, and the name of a dataset needs a split", "Set split, or fix the path."
        )
    import datasets

    try:
        return datasets.load_dataset(source, subset, split=split, revision=revision)
    except Exception as error:  # load_dataset raises the errors of many libraries; each means that it cannot be loaded
        raise DataError(
            f"{source!r} is not a file here, and loading it as a dataset failed: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            "Check the path or the dataset's name, its split and subset, and the network.",
        ) from error
