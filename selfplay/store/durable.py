"""Writing so that a crash leaves the old state or the new one, never half: the only module that writes run files.

A file: temporary name, write, fsync, rename, fsync of the folder. A folder: every file in it fsynced, the folder fsynced, renamed
to a name that must be absent, both parents fsynced.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.errors import SelfplayError


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8. NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """JSON for files that people read too."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames and creations inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
        fsync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` with `data` atomically and durably. Raises SelfplayError naming the file and what it needed."""
    temporary = path.with_name(f".tmp-{path.name.lstrip('.')}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise write_error(path, len(data), error) from error


def write_error(path: Path, num_bytes: int, error: OSError) -> SelfplayError:
    """What a failed write says: file, size, reason, and that nothing committed was touched."""
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return SelfplayError(
        f"could not write {path} ({num_bytes / 1e6:.1f} MB): {error.strerror}; {free / 1e6:.0f} MB are free there",
        "What was committed before is safe. Make room (or make the folder writable), then `selfplay resume`.",
    )


def encode_parquet(table: pa.Table) -> bytes:
    """A table as Parquet bytes (zstd, one row group per 64k rows): written whole so that its digest is of what was meant."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=65536)
    return bytes(sink.getvalue())


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, itself included (files that others wrote into it)."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(path, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(path))


def publish_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to its final name, which must be absent. Everything in it must be fsynced already."""
    make_folder(target.parent)
    if target.exists():
        raise SelfplayError(f"{target} is there already", "Another driver may have written it: look before going on.")
    source.rename(target)
    fsync_folder(target.parent)
    fsync_folder(source.parent)


def remove_tree(folder: Path) -> None:
    """Remove scratch: renamed first, so that a half-removed folder is never met under its name."""
    trash = folder.with_name(f".trash-{folder.name}")
    if trash.exists():  # a crash left it
        shutil.rmtree(trash)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash)
