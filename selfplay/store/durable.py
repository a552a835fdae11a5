"""Atomic, durable writes: a crash leaves the old state or the new one. This is the only module that writes run files.

A file: temporary name, write, fsync, rename, fsync of the folder. A folder: every file in it fsynced, the folder fsynced, renamed
to a name that must not exist, both parents fsynced. Every change is one of the few `operations` below, one system call each.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.core.errors import SelfplayError
from selfplay.core.json_text import parse_json
from selfplay.store.disk_errors import write_error

if TYPE_CHECKING:
    import pyarrow as pa

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
    def _observed(self, operation: str, path: Path) -> Iterator[None]:
        index = next(self._numbers)
        if self.before is not None:
            self.before(operation, path, index)
        yield
        if self.after is not None:
            self.after(operation, path, index)

    def create(self, path: Path) -> io.FileIO:
        """A new file, open for writing, with the mode that the umask gives. Raises FileExistsError where the name exists, also
        as a symbolic link (O_CREAT with O_EXCL follows none)."""
        with self._observed("create", path):
            return open(path, "xb", buffering=0)

    def write(self, file: io.FileIO, data: Any) -> None:
        """All of `data` (bytes-like) at the end of a file from `create`."""
        with self._observed("write", Path(file.name)):
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]

    def fsync(self, file: io.FileIO) -> None:
        """Make a file's content durable (not its name)."""
        with self._observed("fsync", Path(file.name)):
            os.fsync(file.fileno())

    def fsync_folder(self, folder: Path) -> None:
        """Make the names inside a folder durable."""
        with self._observed("fsync_folder", folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Another name for a file or folder; a file of that name is replaced."""
        with self._observed("rename", target):
            source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file."""
        with self._observed("link", target):
            target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a file or a symbolic link."""
        with self._observed("unlink", path):
            path.unlink()

    def mkdir(self, folder: Path) -> None:
        """A new folder; its parent is there."""
        with self._observed("mkdir", folder):
            folder.mkdir()

    def rmdir(self, folder: Path) -> None:
        """Remove an empty folder."""
        with self._observed("rmdir", folder):
            folder.rmdir()


operations = Operations()

# of the JSON files that say what a run is
MAX_SMALL = 64 << 20

MIN_GROUP_ROWS, MAX_GROUP_ROWS, GROUP_BYTES = 256, 65_536, 8 << 20


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8. NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """Indented JSON, for files that are also read by humans."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


CHECKSUM = "sha256"


def json_with_checksum(document: dict[str, Any]) -> bytes:
    """`pretty_json` with a last key `sha256` of all the others: for files that no manifest lists."""
    return pretty_json({**document, CHECKSUM: sha256_bytes(canonical_json(document))})


def parse_checked_json(data: bytes) -> dict[str, Any]:
    """A document of `json_with_checksum` without its checksum. Raises ValueError where it is damaged."""
    document = parse_json(data)
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}")
    if CHECKSUM not in document:
        raise ValueError("it has no sha256")
    found = document.pop(CHECKSUM)
    if found != sha256_bytes(canonical_json(document)):
        raise ValueError("its content does not match its sha256")
    if data != pretty_json({**document, CHECKSUM: found}):  # another line end, a key twice, another encoding
        raise ValueError("it is not in the form that selfplay writes")
    return document


@contextmanager
def reading_file(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file, open for reading. Raises OSError, also for a symbolic link and for what is not a regular file (reading a
    pipe would wait forever), and SelfplayError for a file that this user may not read: that is not damage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except PermissionError:
        hint = "The file may be intact. Give this user permission to read the run, or use another user."
        raise SelfplayError(f"{path} cannot be read: no permission", hint) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_file(path: Path) -> bytes:
    """The content of a small file. Raises as `reading_file`, and OSError for one of more than MAX_SMALL bytes."""
    with reading_file(path) as file:
        data = file.read(MAX_SMALL + 1)
    if len(data) > MAX_SMALL:
        raise OSError(errno.EFBIG, f"it has more than {MAX_SMALL >> 20} MiB", str(path))
    return data


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
    """Create a folder and its missing parents durably. Several threads may create the same one."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with translating_errors(path):
            try:
                operations.mkdir(path)
            except FileExistsError:
                if not path.is_dir():
                    raise
            operations.fsync_folder(path.parent)


def temporaries(folder: Path, name: str = "*", below: str = "") -> list[Path]:
    """Temporary files that a killed `write_file` left: those of the file `name`, or of any file of `folder`; with `below`, of the
    folders of this pattern in it ("*/")."""
    return sorted(folder.glob(f"{below}.tmp-{name.lstrip('.')}-{'[0-9a-f]' * 8}"))


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` with `data` atomically and durably: a new file under a random name, fsynced, then renamed. Raises
    SelfplayError with the file and the space that it needs."""
    temporary = path.with_name(f".tmp-{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    with translating_errors(path, len(data)):
        try:
            with operations.create(temporary) as file:
                operations.write(file, data)
                operations.fsync(file)
            operations.rename(temporary, path)
        except OSError:
            # each attempt has another name: on a full disk they would add up
            with suppress(OSError):
                temporary.unlink()
            raise
        operations.fsync_folder(path.parent)


def encode_parquet(table: pa.Table) -> bytes:
    """A table as Parquet bytes (zstd): written whole so that its digest is of what was meant. Row groups are what a page of
    rows is read by: of 64k rows at most, and of about 8 MB where rows hold long texts. Each page carries a checksum, so that
    a reader that takes a page and no digest of the file shows no value that was not written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=_rows_in_group(table), write_page_checksum=True,
        use_dictionary=[leaf for field in table.schema for leaf in _dictionary_leaves(field.name, field.type)],
    )  # fmt: skip
    return bytes(sink.getvalue())


def _dictionary_leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The columns inside a Parquet file that are worth a dictionary: not floats, whose values are nearly all different."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _dictionary_leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _dictionary_leaves(f"{path}.{field.name}", field.type)
    elif not pa.types.is_floating(kind):
        yield path


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


def set_modes(folder: Path, like: Path) -> None:
    """Give every file below `folder` the mode of the file `like`, which this process created: that of the umask. Folders get the
    same with permission to enter where there is one to read. (safetensors creates its files with 0600, whatever the umask is, and
    copies keep the modes of what was copied.) What cannot be changed, because it is of another user or on a file system without
    modes, keeps its own."""
    mode = stat.S_IMODE(like.stat().st_mode)
    for path, folders, names in os.walk(folder):
        for wanted, entries in ((mode | (mode & 0o444) >> 2, folders), (mode, names)):
            for name in entries:
                entry = Path(path, name)
                if not entry.is_symlink() and stat.S_IMODE(entry.stat().st_mode) != wanted:
                    with suppress(PermissionError):
                        entry.chmod(wanted)


def move(source: Path, target: Path) -> None:
    """Rename a finished file or folder durably. An existing file is replaced; an existing folder is an error."""
    with translating_errors(target):
        operations.rename(source, target)
        operations.fsync_folder(target.parent)


def publish_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to its final name, which must not exist. Everything in it must be fsynced already."""
    make_folder(target.parent)
    if target.exists():
        raise SelfplayError(
            f"{target} exists already", "Another driver may have written it. Check it before you continue."
        )
    move(source, target)
    fsync_folder(source.parent)


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
    """Delete scratch. It is renamed first, durably, so that a half-deleted folder never has its name."""
    trash = folder.with_name(f".trash-{folder.name}")
    discard(trash)  # left by a crash
    if folder.exists():
        move(folder, trash)
        discard(trash)


def discard(path: Path) -> None:
    """Delete a file or a folder with its content, if it exists: for names that nobody reads."""
    with translating_errors(path):
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                discard(entry)
            operations.rmdir(path)
        elif path.exists() or path.is_symlink():
            operations.unlink(path)
