"""A stage's commit: the file that says which files belong to it, with sizes, digests and rows, and what it was made from.

A stage is committed when its folder stands under its final name: the folder is renamed there only after everything in it, this
file last, is on disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import STAGE_NAMES
from selfplay.store import durable
from selfplay.store.durable import sha256_bytes, sha256_file
from selfplay.store.layout import COMMIT, REMOVED
from selfplay.store.manifest import Commit, FileEntry
from selfplay.store.symlinks import forbid_symlinks
from selfplay.store.tombstone import read_tombstone


def read_commit(folder: Path) -> tuple[Commit, str]:
    """The commit of a stage folder and its digest. Raises CorruptionError if it is not readable as one."""
    path = folder / COMMIT
    for place in (folder, path):
        forbid_symlinks(place, place.parent)
    try:
        data = durable.read_file(path)
        # a commit of an earlier version has no seal
        document = durable.parse_checked_json(data, strict=False)
        files = [FileEntry(**entry) for entry in document.pop("files")]
        commit = Commit(files=files, **document)
        _check_values(commit)
    except FileNotFoundError:
        raise CorruptionError(f"{folder} has no {COMMIT}", remedy(folder)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", remedy(folder)) from None
    for entry in files:
        if not _is_plain_name(entry.path):
            raise CorruptionError(f"{path} names a file outside its folder: {entry.path!r}", remedy(folder))
    return commit, sha256_bytes(data)


def _check_values(commit: Commit) -> None:
    """Raise ValueError for values that no commit has: they may come from anywhere."""
    for name in commit.inputs:
        parse_stage_name(name)
    names = [entry.path for entry in commit.files if isinstance(entry.path, str)]
    if len(set(names)) != len(names):
        raise ValueError("it names a file twice")
    numbers = [commit.round, commit.attempt, *(entry.num_bytes for entry in commit.files)]
    numbers += [entry.rows for entry in commit.files if entry.rows is not None]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        raise ValueError("a count in it is no number")
    digests = [*commit.inputs.values(), *(entry.sha256 for entry in commit.files)]
    if not all(is_digest(digest) for digest in digests):
        raise ValueError("a digest in it is none")


def is_digest(value: object) -> bool:
    """Whether it is a sha256 as they are written here."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_plain_name(name: object) -> bool:
    """Whether a committed file's name stays inside the stage's folder and is written in the one way there is."""
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return path.as_posix() == name and not path.is_absolute() and ".." not in path.parts and name not in (".", COMMIT)


def parse_stage_name(name: str) -> tuple[int, str]:
    """(round, stage) of "ROUND/STAGE". Raises ValueError for any other text: it may come from a damaged file, and folders are
    named by it."""
    number, _, stage = name.partition("/")
    if stage not in STAGE_NAMES or not re.fullmatch(r"[0-9]{3,9}", number):
        raise ValueError(f"{name!r} names no stage")
    return int(number), stage


def check_shape(folder: Path, commit: Commit, digest: str) -> None:
    """Presence and sizes of the committed files, and that there are no others (cheap: every read). What `gc` took may be
    missing. `digest` is the commit's."""
    found = dict(_sizes(folder))
    for entry in commit.files:
        size = found.pop(entry.path, None)
        if size is None:
            # the mark is written before anything is taken: it is looked for after something was missed
            if is_removed(folder, commit, digest, entry):
                continue
            raise CorruptionError(f"{folder / entry.path} is missing", remedy(folder))
        if size != entry.num_bytes:
            raise CorruptionError(
                f"{folder / entry.path} has {size} bytes, its commit says {entry.num_bytes}", remedy(folder)
            )
    for name in found:
        if name not in (COMMIT, REMOVED) and not name.rpartition("/")[2].startswith("."):
            raise CorruptionError(
                f"{folder / name} is not in the commit of its stage", f"Remove it: {folder} is read as a whole."
            )


def _sizes(folder: Path, name: str = "") -> Iterator[tuple[str, int | None]]:
    """Names below a stage's folder with the bytes of each ordinary file, None for what is none. One look at each: a stage may
    have tens of thousands of files. No link is followed."""
    with os.scandir(folder / name) as entries:
        for entry in entries:
            inside = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(folder, inside)
            else:
                ordinary = entry.is_file(follow_symlinks=False)
                yield inside, entry.stat(follow_symlinks=False).st_size if ordinary else None


def is_removed(folder: Path, commit: Commit, digest: str, entry: FileEntry) -> bool:
    """Whether `gc` took a committed file away. Raises CorruptionError for a mark that does not agree with the commit."""
    mark = read_tombstone(folder, commit, digest)
    return mark is not None and mark.contains(entry.path)


def check_digests(folder: Path, commit: Commit, digest: str) -> None:
    """Content of the committed files (once per attempt before they are used, and in `verify`)."""
    mark = read_tombstone(folder, commit, digest)
    for entry in commit.files:
        path = folder / entry.path
        if mark is not None and mark.contains(entry.path):
            continue
        if sha256_file(path) != entry.sha256:
            raise CorruptionError(f"{path} is not what was committed: its sha256 differs", remedy(folder))


def remedy(folder: Path) -> str:
    """The way out of corruption in a stage's folder."""
    return (
        f"Restore it from a backup, or remove {folder} and everything made from it "
        "(later stages of its round and all later rounds) and resume: it will be made again."
    )
