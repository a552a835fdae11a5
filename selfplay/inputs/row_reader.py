"""The rows of a source, whatever it is kept in: the reading half of the *prompts* stage (`sources.py` is the
other) and of `selfplay select` (`offline/`).

Files are read with pyarrow and the standard library; only a name on the Hub needs `datasets`, imported when it
is asked for. Row numbers are 1-based: in JSON Lines the line of the file (blank lines count, but are no rows),
elsewhere the record, a CSV's header not counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import DataError
from selfplay.inputs.source_files import WHAT_IS_READ, file_digest, file_format, local_path, source_files

_BATCH = 1024


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: the file and the row's number in it, and either its values or what is wrong with it.

    Example: SourceRow("train.jsonl", 17, {"question": "Say hello."}, None)
    """

    file: str
    row: int
    values: dict[str, Any] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source: its data files in reading order or, without files, a Hub dataset with what it was asked for
    as (`hub_key`). `name` is for people."""

    name: str
    files: Sequence[Path]
    hub: Any = None
    hub_key: str = ""

    @property
    def is_arrow(self) -> bool:
        """Whether it is kept in columns (Parquet, Arrow, the Hub's cache): `schemas` and `tables` work."""
        return self.hub is not None or all(file_format(file) in ("parquet", "arrow") for file in self.files)

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the source's own order; a row that cannot be read comes with its problem. Raises DataError
        for a file that is unreadable as a whole."""
        if self.is_arrow:
            for file, first, table in self.tables(batch_size=_BATCH):
                yield from _table_rows(file, first, table)
            return
        for path in self.files:
            with _readable(path):
                yield from _read_file(path)

    def columns(self) -> list[str]:
        """The names of the columns in any row, in the order of their first appearance. Reads the whole source
        where it is JSON. Raises DataError for two columns of one name."""
        if self.is_arrow:
            names = [name for schema in self.schemas() for name in schema.names]
        elif all(file_format(file) in ("csv", "tsv") for file in self.files):
            names = []
            for path in self.files:
                with _readable(path), _open(path) as file:
                    names += _csv_header(path.name, _csv_reader(path, file)) or []
        else:
            found: dict[str, None] = {}
            for row in self.rows():
                if row.values is not None:
                    found.update(dict.fromkeys(row.values))
            return list(found)
        return list(dict.fromkeys(names))

    def schemas(self) -> list[pa.Schema]:
        """The Arrow schema of every file (of a Hub dataset: the one). Raises DataError for two columns of one name."""
        if self.hub is not None:
            return [self.hub.data.table.schema]
        found = []
        for path in self.files:
            with _readable(path), _arrow_file(path) as file:
                schema = file.schema_arrow if isinstance(file, pq.ParquetFile) else file.schema
            _refuse_double_names(path.name, schema.names)
            found.append(schema)
        return found

    def num_rows(self) -> int:
        """Rows of a source in columns, without reading them."""
        if self.hub is not None:
            return int(self.hub.num_rows)
        total = 0
        for path in self.files:
            with _readable(path), _arrow_file(path) as file:
                if isinstance(file, pq.ParquetFile):
                    total += file.metadata.num_rows
                else:
                    total += sum(batch.num_rows for batch in file)
        return total

    def tables(
        self, columns: Sequence[str] | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[str, int, pa.Table]]:
        """The rows as pieces of Arrow tables, each with its file and the number of its first row. `columns`: only
        these; `batch_size`: at most so many rows a piece, else pieces as they are kept. For sources in columns."""
        if self.hub is not None:
            yield from _hub_tables(self.name, self.hub, columns, batch_size)
            return
        for path in self.files:
            first = 1
            with _readable(path), _arrow_file(path) as file:
                for table in _pieces(file, columns, batch_size):
                    yield path.name, first, table
                    first += table.num_rows

    def digest(self) -> str:
        """sha256 (hex) that changes when the content does; see `digest`."""
        if self.hub is not None:
            return hashlib.sha256(f"{self.hub_key} {self.hub._fingerprint}".encode()).hexdigest()
        if len(self.files) == 1 and file_format(self.files[0]) != "arrow":
            return file_digest(self.files[0])
        total = hashlib.sha256()
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
    """Find what a source is; nothing is read but a Hub dataset loaded. Arguments and errors as in `read_rows`."""
    path = local_path(source, base_dir)
    if path is None:
        hub = _load_hub(source, split, subset, revision)
        return Source(f"{source}:{split}", (), hub, f"{source} {subset} {split}")
    if subset is not None or revision is not None:
        raise DataError(f"{path} is local: it has no subset and no revision", "Remove the setting.")
    return Source(str(path), source_files(path, split))


def read_rows(
    source: str,
    split: str | None = None,
    base_dir: str | Path = ".",
    *,
    subset: str | None = None,
    revision: str | None = None,
) -> Iterator[SourceRow]:
    """The rows of a source in its own order; a row that cannot be read comes with its problem.

    `source` is a path, relative to `base_dir`, or the name of a `datasets` dataset (then `split` is required,
    `subset` and `revision` are allowed). A folder of several splits takes `split` too. Raises DataError for what
    is missing, unreadable as a whole, or named by a setting that does nothing there.
    """
    yield from open_source(source, split, base_dir, subset=subset, revision=revision).rows()


def digest(
    source: str,
    split: str | None = None,
    base_dir: str | Path = ".",
    *,
    subset: str | None = None,
    revision: str | None = None,
) -> str:
    """sha256 (hex) that changes when the source's content does: of a file's bytes, of a folder's data files with
    their names, of a Hub dataset's fingerprint (its builder, revision and files, as `datasets` tracks them)."""
    return open_source(source, split, base_dir, subset=subset, revision=revision).digest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what readers raise for a broken file into a DataError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "Check that the file is complete and of its suffix."
        ) from error


def _open(path: Path) -> IO[bytes]:
    # GzipFile is an IO[bytes] in all but its type stub.
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_file(path: Path) -> Iterator[SourceRow]:
    kind = file_format(path)
    if kind == "jsonl":
        with _open(path) as file:
            yield from _read_json_lines(path.name, file)
    elif kind == "json":
        yield from _read_json(path)
    else:
        with _open(path) as file:
            yield from _read_csv(path, file)


@contextmanager
def _arrow_file(path: Path) -> Iterator[Any]:
    """A Parquet file, or a reader of an Arrow stream."""
    if file_format(path) == "arrow":
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            yield reader
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            content = pa.BufferReader(packed.read())
        yield pq.ParquetFile(content)
    else:
        with pq.ParquetFile(path) as parquet:
            yield parquet


def _pieces(file: Any, columns: Sequence[str] | None, batch_size: int | None) -> Iterator[pa.Table]:
    if not isinstance(file, pq.ParquetFile):
        for batch in file:
            table = pa.Table.from_batches([batch])
            yield table if columns is None else table.select(list(columns))
    elif batch_size is None:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=None if columns is None else list(columns))
    else:
        for batch in file.iter_batches(batch_size=batch_size, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch])


def _hub_tables(
    name: str, dataset: Any, columns: Sequence[str] | None, batch_size: int | None
) -> Iterator[tuple[str, int, pa.Table]]:
    first = 1
    chosen = dataset if columns is None else dataset.select_columns(list(columns))
    for table in chosen.with_format("arrow").iter(batch_size=batch_size or 100_000):
        yield name, first, table
        first += table.num_rows


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


def _read_json_lines(name: str, lines: IO[bytes]) -> Iterator[SourceRow]:
    for number, line in enumerate(lines, 1):
        content = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if not content:
            continue
        try:
            value = json.loads(content)
        except UnicodeDecodeError:
            yield SourceRow(name, number, None, "not UTF-8")
        except (ValueError, RecursionError) as error:
            yield SourceRow(name, number, None, f"not valid JSON: {error}")
        else:
            yield _json_row(name, number, value)


def _read_json(path: Path) -> Iterator[SourceRow]:
    """A JSON array of objects, an object with such an array under "data", or JSON Lines in a file that is
    called .json."""
    with _open(path) as file:
        content = file.read()
    try:
        value = json.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and content.lstrip().startswith(b"{"):
            yield from _read_json_lines(path.name, io.BytesIO(content))
            return
        raise DataError(f"{path} is not valid JSON: {error}", "Mend the file, or write one object a line.") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists nested thousands deep
        raise DataError(
            f"{path} cannot be read as JSON: {error}", "Mend the file, or write one object a line."
        ) from error
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


def _csv_reader(path: Path, file: IO[bytes]) -> Any:
    # A long response is longer than the module's limit of 131,072 characters a field.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row is one bad row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    return csv.reader(text, delimiter="\t" if file_format(path) == "tsv" else ",", strict=True)


def _csv_header(name: str, reader: Any) -> list[str] | None:
    header: list[str] | None = next(reader, None)
    if header is not None:
        _refuse_double_names(name, header)
    return header


def _read_csv(path: Path, file: IO[bytes]) -> Iterator[SourceRow]:
    reader = _csv_reader(path, file)
    header = _csv_header(path.name, reader)
    if header is None:
        return
    for number, record in enumerate((record for record in reader if record), 1):
        if len(record) != len(header):
            problem = f"{len(record)} fields, the header has {len(header)}"
            yield SourceRow(path.name, number, None, problem)
        else:
            yield SourceRow(path.name, number, dict(zip(header, record, strict=True)), None)


def _refuse_double_names(file: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file} has two columns called {twice!r}", "Rename one of them.")


def _load_hub(source: str, split: str | None, subset: str | None, revision: str | None) -> Any:
    if split is None:
        raise DataError(
            f"{source!r} is no file here, and as a dataset's name it needs a split", "Set split, or mend the path."
        )
    import datasets

    try:
        return datasets.load_dataset(source, subset, split=split, revision=revision)
    except Exception as error:  # load_dataset raises whatever its many layers raise; all of it means: not this source
        raise DataError(
            f"{source!r} is no file here, and loading it as a dataset failed: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            "Check the path or the dataset's name, its split and subset, and the network.",
        ) from error
