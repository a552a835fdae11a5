"""The rows of a prompt source, whatever it is kept in: the reading half of the *prompts* stage (`sources.py` is
the other).

Files are read with pyarrow and the standard library; only a name on the Hub needs `datasets`, imported when it
is asked for. Row numbers are 1-based: in JSON Lines the line of the file (blank lines count, but are no rows),
elsewhere the record, a CSV's header not counted.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.errors import DataError

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WHAT_IS_READ = (
    "Sources are .jsonl, .json, .csv, .tsv (each also .gz), .parquet, a save_to_disk folder, or a Hub dataset."
)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: the file and the row's number in it, and either its values or what is wrong with it.

    Example: SourceRow("train.jsonl", 17, {"question": "Say hello."}, None)
    """

    file: str
    row: int
    values: dict[str, Any] | None
    problem: str | None


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
    `subset` and `revision` are allowed). A save_to_disk folder of several splits takes `split` too. Raises
    DataError for what is missing, unreadable as a whole, or named by a setting that does nothing there.
    """
    path = _local_path(source, base_dir)
    if path is None:
        yield from _read_hub(source, split, subset, revision)
        return
    if subset is not None or revision is not None:
        raise DataError(f"{path} is local: it has no subset and no revision", "Remove the setting.")
    if path.is_dir():
        yield from _read_saved(path, split)
        return
    if split is not None:
        raise DataError(f"split {split!r} is given, but {path} is a file and has no splits", "Remove split.")
    try:
        yield from _read_file(path)
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "Check that the file is complete and of its suffix."
        ) from error


def digest(
    source: str,
    split: str | None = None,
    base_dir: str | Path = ".",
    *,
    subset: str | None = None,
    revision: str | None = None,
) -> str:
    """sha256 (hex) that changes when the source's content does: of a file's bytes, of a saved folder's data
    files with their names, of a Hub dataset's fingerprint (its builder, revision and files, as `datasets`
    tracks them)."""
    path = _local_path(source, base_dir)
    if path is None:
        name = f"{source} {subset} {split} {_load_hub(source, split, subset, revision)._fingerprint}"
        return hashlib.sha256(name.encode()).hexdigest()
    if path.is_file():
        return _file_digest(path)
    total = hashlib.sha256()
    for file in _saved_files(path, split):
        total.update(f"{file.name} {_file_digest(file)}\n".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local_path(source: str, base_dir: str | Path) -> Path | None:
    """The path that a source names, None for the name of a Hub dataset. Raises DataError for a path that is not
    there."""
    path = Path(base_dir, Path(source).expanduser())
    if path.exists():
        return path
    if not source.startswith((".", "~", "/")) and _format(path) is None and _HUB_NAME.fullmatch(source):
        return None
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"no such file: {path}", f"There is no folder {folder} either; check the path.")
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], 1)
    raise DataError(
        f"no such file: {path}",
        f"Did you mean {near[0]}?" if near else "The path is relative to the config's folder; check it.",
    )


def _format(path: Path) -> str | None:
    """What a file holds by its suffix, None where that is not known."""
    suffixes = path.suffixes
    if suffixes and suffixes[-1] == ".gz":
        found = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if found == "parquet" else found
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _open(path: Path) -> IO[bytes]:
    # GzipFile is an IO[bytes] in all but its type stub.
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_file(path: Path) -> Iterator[SourceRow]:
    kind = _format(path)
    if kind == "jsonl":
        with _open(path) as file:
            yield from _read_json_lines(path.name, file)
    elif kind == "json":
        yield from _read_json(path)
    elif kind in ("csv", "tsv"):
        with _open(path) as file:
            yield from _read_csv(path.name, file, "," if kind == "csv" else "\t")
    elif kind == "parquet":
        batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
        yield from _number(path.name, (row for batch in batches for row in batch.to_pylist()))
    else:
        raise DataError(f"{path} is of no kind that is known", _WHAT_IS_READ)


def _number(file: str, rows: Iterator[dict[str, Any]]) -> Iterator[SourceRow]:
    for number, values in enumerate(rows, 1):
        yield SourceRow(file, number, values, None)


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
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{path} is neither a list of objects nor an object with a list under 'data'", _WHAT_IS_READ)
    for number, row in enumerate(value, 1):
        yield _json_row(path.name, number, row)


def _json_row(name: str, number: int, value: Any) -> SourceRow:
    if isinstance(value, dict):
        return SourceRow(name, number, value, None)
    return SourceRow(name, number, None, f"not a JSON object but {type(value).__name__}")


def _read_csv(name: str, file: IO[bytes], delimiter: str) -> Iterator[SourceRow]:
    # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row is one bad row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = next(reader, None)
    if header is None:
        return
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise DataError(f"{name} has two columns called {twice!r}", "Rename one of them in the header.")
    for number, record in enumerate((record for record in reader if record), 1):
        if len(record) != len(header):
            problem = f"{len(record)} fields, the header has {len(header)}"
            yield SourceRow(name, number, None, problem)
        else:
            yield SourceRow(name, number, dict(zip(header, record, strict=True)), None)


def _saved_files(folder: Path, split: str | None) -> list[Path]:
    """The Arrow files of a save_to_disk folder, of its split where it has several."""
    listing = folder / "dataset_dict.json"
    if listing.is_file():
        splits = json.loads(listing.read_text(encoding="utf-8"))["splits"]
        if split not in splits:
            said = f"has no split {split!r}" if split else "has several splits"
            raise DataError(f"{folder} {said}; there are {', '.join(splits)}", "Set split to one of them.")
        folder = folder / str(split)
    elif split is not None:
        raise DataError(f"split {split!r} is given, but {folder} holds one dataset without splits", "Remove split.")
    state = folder / "state.json"
    if not state.is_file():
        raise DataError(f"{folder} is no folder of Dataset.save_to_disk", _WHAT_IS_READ)
    files = [folder / entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(f"{folder} lacks {', '.join(absent[:3])}", "Save or copy the dataset again.")
    return files


def _read_saved(folder: Path, split: str | None) -> Iterator[SourceRow]:
    for path in _saved_files(folder, split):
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
                yield from _number(path.name, (row for batch in batches for row in batch.to_pylist()))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}", "Save or copy the dataset again.") from error


def _read_hub(source: str, split: str | None, subset: str | None, revision: str | None) -> Iterator[SourceRow]:
    dataset = _load_hub(source, split, subset, revision)
    yield from _number(f"{source}:{split}", iter(dataset))


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
