"""A folder of results outside a run (what `selfplay select` leaves): written in a scratch folder, then published at once.

The same promises as for a run: a file is hashed while it is written, fsynced and renamed; `.COMMIT.json`, which lists all
files with size, sha256 and rows, is written last. A folder without it was not finished.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import CorruptionError
from selfplay.store import durable
from selfplay.store.layout import COMMIT
from selfplay.store.manifest import FileEntry, Manifest, check_files, read_manifest, write_manifest
from selfplay.store.symlinks import forbid_symlinks, forbid_symlinks_below


class ResultWriter:
    """Writes the files of a result into `scratch` and moves them to `root` when it is committed. Methods that add a file may
    be called from several threads at once."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root, self._scratch = root, scratch
        if root.is_dir():
            forbid_symlinks_below(root, root)  # what is written, replaced and removed here would be elsewhere
        # what a kill left: files are few and made again
        for path in durable.temporaries(root, COMMIT):
            durable.discard(path)
        durable.remove_tree(scratch)
        durable.make_folder(scratch)
        self._lock = threading.Lock()
        self._entries: dict[str, FileEntry] = {}

    def add(self, name: str, data: bytes) -> None:
        """One file by its name inside the folder, whole."""
        self.add_pieces(name, [data])

    def add_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """One file, piece by piece."""
        path = self._place(name)
        with _Hashed(path) as sink:
            for piece in pieces:
                sink.write(piece)
        self._note(FileEntry(name, sink.size, sink.hexdigest))

    def add_parquet(self, name: str, schema: pa.Schema, tables: Iterable[pa.Table], **options: Any) -> int:
        """One Parquet file; each table becomes a row group. `options` go to pyarrow's ParquetWriter. Returns the rows written."""
        path = self._place(name)
        rows = 0
        with _Hashed(path) as sink, pq.ParquetWriter(sink, schema, **options) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
                rows += table.num_rows
        self._note(FileEntry(name, sink.size, sink.hexdigest, rows))
        return rows

    def digest(self, *folders: str) -> str:
        """sha256 (hex) of the files that were added below these folders: their names and contents."""
        found = [
            entry for name, entry in sorted(self._entries.items()) if name.startswith(tuple(f"{f}/" for f in folders))
        ]
        return durable.sha256_bytes("".join(f"{entry.path} {entry.sha256}\n" for entry in found).encode())

    def commit(self, document: Mapping[str, Any]) -> None:
        """Publish everything that was added: each top-level name is moved to `root`, replacing what an unfinished attempt left
        there, then `.COMMIT.json` with `document` and the list of files."""
        for folder in sorted({path.parent for path in self._scratch.rglob("*")}):
            durable.fsync_folder(folder)
        for name in sorted({path.partition("/")[0] for path in self._entries}):
            target = self._root / name
            if target.is_dir():
                durable.remove_tree(target)
            durable.move(self._scratch / name, target)
        write_manifest(self._root / COMMIT, document, [self._entries[name] for name in sorted(self._entries)])

    def _place(self, name: str) -> Path:
        path = self._scratch / name
        with self._lock:
            durable.make_folder(path.parent)
        return path

    def _note(self, entry: FileEntry) -> None:
        with self._lock:
            self._entries[entry.path] = entry


def read_result(root: Path) -> Manifest | None:
    """The commit of a folder that was written by `ResultWriter`, the presence and sizes of its files checked; None where there
    is none. Raises CorruptionError for a folder that is not what its commit says, ConfigError for another version's."""
    path = root / COMMIT
    forbid_symlinks(path, root)
    if not path.is_file():
        return None
    remedy = f"Delete {root} and create it again."
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", remedy) from None
    for item in check_files(root, manifest.files):
        raise CorruptionError(str(item), remedy)
    return manifest


class _Hashed(io.RawIOBase):
    """A new file that is hashed while it is written (by pyarrow, too). It is fsynced when the block ends without an error, and
    errors name it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        with durable.translating_errors(self._path):
            self._file = durable.operations.create(self._path)  # closed in __exit__
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        with self._file, durable.translating_errors(self._path, self.size):
            if value is None:
                durable.operations.fsync(self._file)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with durable.translating_errors(self._path, self.size + len(view)):
            durable.operations.write(self._file, view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()
