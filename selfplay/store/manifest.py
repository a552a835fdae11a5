"""The manifest of a folder: a JSON file that lists its files with size, sha256 and rows, and ends with its own sha256.

This is the one format for commits, shards kept in `.work/`, deleted policies, results of `select` and `export`, trainer
checkpoints and the quickstart's world. They differ in the facts that stand beside the list. `check_files` is the one
comparison of a folder with such a list.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, ConfigDict, Field

from selfplay.core.errors import ConfigError
from selfplay.core.parse_record import STRICT, RecordT, parse_record
from selfplay.core.version import __version__
from selfplay.store import durable
from selfplay.store.layout import SCHEMA_VERSION

# Files that are hashed at a time.
MAX_HASHING = 8


def _plain_name(name: str) -> str:
    """The name, if it stays inside its folder and is in canonical form."""
    path = PurePosixPath(name)
    canonical = path.as_posix() == name and not path.is_absolute() and ".." not in path.parts and name != "."
    if not canonical or "\0" in name or "\\" in name:
        raise ValueError(f"it names a file outside its folder: {name!r}")
    return name


Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PlainName = Annotated[str, AfterValidator(_plain_name)]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path relative to the folder, size in bytes, hex sha256, rows (null if it is not a table)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    path: PlainName
    num_bytes: Count
    sha256: Digest
    rows: Count | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as read: its facts, its files, and the sha256 of the manifest file itself."""

    facts: dict[str, Any]
    files: list[FileEntry]
    digest: str

    def as_record(self, kind: type[RecordT]) -> RecordT:
        """The facts and files as a record; `kind` is a dataclass with a field `files`. Raises ValueError for other facts."""
        record: Any = parse_record(kind, {**self.facts, "files": []})
        return cast(RecordT, dataclasses.replace(record, files=self.files))


@dataclass(frozen=True, slots=True)
class Damage:
    """A difference between a folder and its manifest. `kind` is missing, size, digest, rows, damaged or extra; `message`
    is a sentence without a subject: "has 4 bytes, its manifest says 5"."""

    kind: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}"


def write_manifest(path: Path, facts: Mapping[str, Any], files: Iterable[FileEntry]) -> None:
    """Write a manifest atomically. The files that it lists must be durable already. `facts` may be a record as a dict."""
    listed = [dataclasses.asdict(entry) for entry in files]
    document = {**facts, "schema_version": SCHEMA_VERSION, "files": listed}
    durable.write_file(path, durable.json_with_checksum(document))


def read_manifest(path: Path) -> Manifest:
    """A manifest. Raises OSError where it cannot be read, ValueError where it is damaged, and ConfigError where another version
    of selfplay wrote it."""
    data = durable.read_file(path)
    facts = durable.parse_checked_json(data)
    check_version(path, facts.pop("schema_version", None))
    entries = parse_record(list[FileEntry], facts.pop("files", None))
    if len({entry.path for entry in entries}) != len(entries):
        raise ValueError("it names a file twice")
    return Manifest(facts, entries, durable.sha256_bytes(data))


def check_version(path: Path, version: Any, written_by: Any = None) -> None:
    """Raise ConfigError for a file or run of another schema version, ValueError for what is not a version. `written_by` is the
    version of selfplay that wrote it, if known."""
    if type(version) is not int or version < 1:
        raise ValueError(f"schema version {version!r}")
    if version != SCHEMA_VERSION:
        by = f"selfplay {written_by}, " if isinstance(written_by, str) else ""
        raise ConfigError(
            f"{path} was written by {by}schema version {version}; this one, {__version__}, reads version {SCHEMA_VERSION}",
            f"Use selfplay {written_by}." if by else "Use the version of selfplay that wrote it.",
        )


def hash_files(folder: Path, below: str = "") -> list[FileEntry]:
    """An entry for each file below `folder/below`, by path relative to `folder`; every file is read once, several at a time."""
    from concurrent.futures import ThreadPoolExecutor

    names = sorted(name for name, _ in _sizes(folder, below))
    with ThreadPoolExecutor(MAX_HASHING) as pool:
        digests = pool.map(durable.sha256_file, [folder / name for name in names])
        return [
            FileEntry(name, (folder / name).stat().st_size, sha256) for name, sha256 in zip(names, digests, strict=True)
        ]


def policy_digest(entries: Iterable[FileEntry]) -> str:
    """Identity of a policy: sha256 over the names and contents of the files in `policy/`."""
    files = sorted(
        (PurePosixPath(entry.path).relative_to("policy"), entry.sha256)
        for entry in entries
        if entry.path.startswith("policy/")
    )
    return durable.sha256_bytes(durable.canonical_json([[path.as_posix(), sha256] for path, sha256 in files]))


def check_files(
    folder: Path,
    files: Sequence[FileEntry],
    *,
    rows: bool = False,
    digests: bool = False,
    extra: bool = False,
    hidden: Container[str] | None = None,
) -> Iterator[Damage]:
    """Every difference between the files of a folder and a list of them, at most one per file: presence and size; where asked
    for also the sha256, the rows in the Parquet footers, and files that the list does not name. Hidden files are extra only
    where `hidden` names those that are allowed: no reader opens others. No symbolic link is followed."""
    if extra or any("/" in entry.path for entry in files):
        found = dict(_sizes(folder)) if folder.is_dir() else {}
    else:
        # a few files of a folder that may hold tens of thousands
        found = {entry.path: _regular_size(folder / entry.path) for entry in files}
    for entry in files:
        path, size = folder / entry.path, found.pop(entry.path, None)
        if size is None:
            yield Damage("missing", path, "is missing")
        elif size != entry.num_bytes:
            yield Damage("size", path, f"has {size} bytes, its manifest says {entry.num_bytes}")
        elif digests and durable.sha256_file(path) != entry.sha256:
            yield Damage("digest", path, "is damaged: its sha256 differs from its manifest")
        elif rows and entry.rows is not None:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                num_rows = pq.read_metadata(path).num_rows
            except (pa.ArrowException, OSError) as error:
                yield Damage("damaged", path, f"cannot be read as Parquet ({error})")
                continue
            if num_rows != entry.rows:
                yield Damage("rows", path, f"has {num_rows} rows, its manifest says {entry.rows}")
    if extra:
        for name in found:
            is_hidden = name.rpartition("/")[2].startswith(".")
            if not is_hidden or (hidden is not None and name not in hidden):
                yield Damage("extra", folder / name, "is not in the manifest of its folder")


def _regular_size(path: Path) -> int | None:
    """Bytes of a regular file; None for anything else and where there is nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _sizes(folder: Path, name: str = "") -> Iterator[tuple[str, int | None]]:
    """Names of everything below a folder that is no folder, with the bytes of each regular file (else None). One look at each:
    a stage may have tens of thousands of files. No link is followed."""
    with os.scandir(folder / name) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            inside = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(folder, inside)
            else:
                regular = entry.is_file(follow_symlinks=False)
                yield inside, entry.stat(follow_symlinks=False).st_size if regular else None
