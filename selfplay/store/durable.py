"""Writing so that a crash leaves the old state or the new one, never half: the only module that writes run files.

A file: temporary name, write, fsync, rename, fsync of the folder. A folder: every file in it fsynced, the folder fsynced, renamed
to a name that must be absent, both parents fsynced. All of it is made of the few `operations` below, one system call each.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import SelfplayError
from selfplay.core.paths import nearest_existing

Hook = Callable[[str, Path, int], None]


class Operations:
    """Every change that the store makes to a disk, one method for each kind: the seam at which tests watch, stop, kill and fail.

    `before` and `after` are called around each operation with its name (create, write, fsync, rename, link, unlink, mkdir, rmdir,
    fsync_folder), the path that it makes or changes (of a rename and a link: the new name) and its number in this process, from
    0. Both are None in production. A forked child that is to die at its 17th operation does

        def die(operation: str, path: Path, index: int) -> None:
            if index == 17:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.operations = durable.Operations(before=die)    # or after=die: the operation is done, nothing that follows it

    and counts the operations of an undisturbed run in the same way. A hook may sleep, or raise an OSError, which is then what
    that operation failed with. A test that wants more (half a write, what was written) derives from this class. Nobody keeps a
    reference to `operations`: it is looked up in this module at each call, so that it can be replaced at any time.
    """

    def __init__(self, before: Hook | None = None, after: Hook | None = None) -> None:
        self.before, self.after = before, after
        self._numbers = itertools.count()

    @contextmanager
    def _broadcasts(self, operation: str, path: Path) -> Iterator[None]:
        index = next(self._numbers)
        if self.before is not None:
            self.before(operation, path, index)
        yield
        if self.after is not None:
            self.after(operation, path, index)

    def create(self, path: Path) -> io.FileIO:
        """A new file, or an old one made empty, open for writing."""
        with self._broadcasts("create", path):
            return open(path, "wb", buffering=0)

    def write(self, file: io.FileIO, data: Any) -> None:
        """All of `data` (bytes-like) at the end of a file from `create`."""
        with self._broadcasts("write", Path(file.name)):
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]

    def fsync(self, file: io.FileIO) -> None:
        """Make a file's content durable (not its name)."""
        with self._broadcasts("fsync", Path(file.name)):
            os.fsync(file.fileno())

    def fsync_folder(self, folder: Path) -> None:
        """Make the names inside a folder durable."""
        with self._broadcasts("fsync_folder", folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Another name for a file or folder; a file of that name is replaced."""
        with self._broadcasts("rename", target):
            source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file."""
        with self._broadcasts("link", target):
            target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a file or a symbolic link."""
        with self._broadcasts("unlink", path):
            path.unlink()

    def mkdir(self, folder: Path) -> None:
        """A new folder; its parent is there."""
        with self._broadcasts("mkdir", folder):
            folder.mkdir()

    def rmdir(self, folder: Path) -> None:
        """Remove an empty folder."""
        with self._broadcasts("rmdir", folder):
            folder.rmdir()


operations = Operations()

MIN_GROUP_ROWS, MAX_GROUP_ROWS, GROUP_BYTES = 256, 65_536, 8 << 20


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8. NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """JSON for files that people read too."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


SEAL = "sha256"


def json_with_checksum(document: dict[str, Any]) -> bytes:
    """`pretty_json` with a last key `sha256` of all the others: for files that no commit lists."""
    return pretty_json({**document, SEAL: sha256_bytes(canonical_json(document))})


def parse_checked_json(data: bytes, *, strict: bool = True) -> dict[str, Any]:
    """A document without its seal. Raises ValueError where it is not one, or not what was sealed; one without a seal is taken
    only where not `strict` (an earlier version wrote it)."""
    document = parse_json(data)
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}")
    if SEAL not in document:
        if strict:
            raise ValueError("it has lost its sha256")
        return document
    if not checksum_matches(document):
        raise ValueError("it is not what its sha256 says")
    del document[SEAL]
    if data != json_with_checksum(document):  # cut by a line's end, a key twice, another encoding
        raise ValueError("it is not written as it was sealed")
    return document


def checksum_matches(document: dict[str, Any]) -> bool:
    """Whether a document's seal is of its content. One without a seal promises nothing: then it is True."""
    content = {name: value for name, value in document.items() if name != SEAL}
    return SEAL not in document or document[SEAL] == sha256_bytes(canonical_json(content))


def parse_json(data: bytes) -> Any:
    """`json.loads` that raises ValueError for every text that is none, deeply nested ones too."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_file(path: Path) -> bytes:
    """All of a small file. Raises OSError, also for what is no ordinary file: a pipe would be waited for without end; but
    SelfplayError for one that this user may not read, which is no damage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        hint = "Nothing is known to be wrong with it: give this user the right to read the run, or be another one."
        raise SelfplayError(f"{path} cannot be read: no permission", hint) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def translating_errors(path: Path, num_bytes: int = 0) -> Iterator[None]:
    """An OSError inside is raised as a SelfplayError that names `path` and what it needed."""
    try:
        yield
    except OSError as error:
        raise write_error(path, num_bytes, error) from error


def fsync_folder(folder: Path) -> None:
    """Make renames and creations inside a folder durable."""
    with translating_errors(folder):
        operations.fsync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with translating_errors(path):
            operations.mkdir(path)
            operations.fsync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` with `data` atomically and durably. Raises SelfplayError naming the file and what it needed."""
    temporary = path.with_name(f".tmp-{path.name.lstrip('.')}")
    with translating_errors(path, len(data)):
        with operations.create(temporary) as file:
            operations.write(file, data)
            operations.fsync(file)
        operations.rename(temporary, path)
        operations.fsync_folder(path.parent)


def write_error(path: Path, num_bytes: int, error: OSError) -> SelfplayError:
    """What a failed write says: file, size, reason, and that nothing committed was touched. `num_bytes` 0: no file but a name."""
    needed = f" ({num_bytes / 1e6:.1f} MB)" if num_bytes else ""
    return SelfplayError(
        f"could not write {path}{needed}: {error.strerror}; {_free(path) / 1e6:.0f} MB are free there",
        f"What was committed before is safe. {_way_out(error.errno, path, num_bytes)}, then `selfplay resume`.",
    )


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def is_disk_error(error: BaseException) -> bool:
    """Whether a library failed for want of a disk: by the error's number or, where it kept only the words, by those."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    return any(os.strerror(code) in str(error) for code in DISK_ERRORS)


def disk_full_error(folder: Path, error: BaseException) -> SelfplayError:
    """What to say where a library could not write into a folder of scratch."""
    code = next((code for code in DISK_ERRORS if os.strerror(code) in str(error)), errno.ENOSPC)
    return SelfplayError(
        f"could not write into {folder}: {error}; {_free(folder) / 1e6:.0f} MB are free there",
        f"What was committed before is safe. {_way_out(code, folder, 0)}, then `selfplay resume`.",
    )


def _way_out(code: int | None, path: Path, num_bytes: int) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        what = "your quota" if code == errno.EDQUOT else "the disk"
        return f"Make room on {what}" + (
            f" (this file takes {num_bytes / 1e6:.1f} MB, those that follow more)" if num_bytes else ""
        )
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"Make {path.parent} writable"
    if code == errno.EIO:
        return "The disk failed (see the kernel's log): move the run's folder to a sound one"
    return f"See to {path.parent}"


def _free(path: Path) -> int:
    """Free bytes where `path` is or would be."""
    return shutil.disk_usage(nearest_existing(path)).free


def encode_parquet(table: pa.Table) -> bytes:
    """A table as Parquet bytes (zstd): written whole so that its digest is of what was meant. Row groups are what a page of
    rows is read by: of 64k rows at most, and of about 8 MB where rows hold long texts. Each page carries a checksum, so that
    a reader that takes a page and no digest of the file shows no value that was not written."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=_rows_in_group(table), write_page_checksum=True)
    return bytes(sink.getvalue())


def _rows_in_group(table: pa.Table) -> int:
    fitting = int(GROUP_BYTES * table.num_rows // max(table.nbytes, 1))
    return max(MIN_GROUP_ROWS, min(fitting, MAX_GROUP_ROWS))


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, itself included (files that others wrote into it)."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in sorted(names):
            with translating_errors(Path(path, name)), open(Path(path, name), "rb", buffering=0) as file:
                operations.fsync(file)
        fsync_folder(Path(path))


def move(source: Path, target: Path) -> None:
    """Another name for a finished file or folder; a file that has the name already is replaced, a folder must not have it."""
    with translating_errors(target):
        operations.rename(source, target)
        operations.fsync_folder(target.parent)


def publish_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to its final name, which must be absent. Everything in it must be fsynced already."""
    make_folder(target.parent)
    if target.exists():
        raise SelfplayError(f"{target} is there already", "Another driver may have written it: look before going on.")
    with translating_errors(target):
        operations.rename(source, target)
        operations.fsync_folder(target.parent)
        operations.fsync_folder(source.parent)


def link_tree(source: Path, target: Path) -> None:
    """The files of `source` under another folder too, which must be absent: as hard links, or copied where linking fails.
    Every new folder and copy is durable."""
    for path, folders, names in os.walk(source):
        folders.sort()
        here = target / Path(path).relative_to(source)
        with translating_errors(here):
            operations.mkdir(here)
        for name in sorted(names):
            _link(Path(path, name), here / name)
    for path, _, _ in os.walk(target, topdown=False):
        fsync_folder(Path(path))


def _link(source: Path, target: Path) -> None:
    try:
        operations.link(source, target)
    except OSError:  # another file system, or one without links
        with translating_errors(target, source.stat().st_size), operations.create(target) as file:
            with open(source, "rb") as original:
                while piece := original.read(1 << 22):
                    operations.write(file, piece)
            operations.fsync(file)


def remove_tree(folder: Path) -> None:
    """Remove scratch: renamed first, durably, so that a half-removed folder is never met under its name."""
    trash = folder.with_name(f".trash-{folder.name}")
    discard(trash)  # a crash left it
    if folder.exists():
        with translating_errors(folder):
            operations.rename(folder, trash)
            operations.fsync_folder(folder.parent)
        discard(trash)


def discard(path: Path) -> None:
    """Remove a file or a folder with all that is in it, where there is one: for names that nobody reads."""
    with translating_errors(path):
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                discard(entry)
            operations.rmdir(path)
        elif path.exists() or path.is_symlink():
            operations.unlink(path)
