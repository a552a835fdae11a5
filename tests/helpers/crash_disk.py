"""Every disk that a crash may leave: the operations of the durable layer, recorded, and replayed into legal states.

The model of a disk is the usual one of file systems with a journal, at its least kind:

- what was written into a file since its last fsync may be there, be missing, be there in part, or read as zeros;
- a name that was made, changed or removed in a folder counts for certain only once that folder was fsynced. Until then each
  such change may have happened or not, whatever became of the others (in this or any other folder), as far as it is possible;
- a rename is one change, made certain by an fsync of the folder with the new name; it may be there before the file's content.

Everything else (what fsync acknowledged is there) is what disks promise; disks that lie about it are not survived.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.store import durable

ROOT = 0


@dataclass(frozen=True)
class Change:
    """Names that change together: (folder, name, what it was, what it becomes), and the folder whose fsync makes it certain."""

    names: tuple[tuple[int, str, int | None, int | None], ...]
    certain_by: int


@dataclass(frozen=True)
class Content:
    """A file's whole content after a write."""

    file: int
    data: bytes


@dataclass(frozen=True)
class Synced:
    """An fsync of a file or a folder has returned."""

    node: int


@dataclass(frozen=True)
class Acknowledged:
    """The store has told its caller that this is safe."""

    what: Any


Event = Change | Content | Synced | Acknowledged
Tree = dict[str, "bytes | Tree"]


@dataclass
class Recorder(durable.Operations):
    """Operations that are done for real below `root`, and recorded. `drop` is a call of fsync (see `sites`) that is left out of
    the record, as if somebody had removed it from the module."""

    root: Path
    drop: str = ""
    unlinkable: str = ".txt"  # files that only copying gives a second place
    events: list[Event] = field(default_factory=list)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    sites: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self._ids = itertools.count(ROOT + 1)
        self.first_dropped = sys.maxsize

    def _at(self, path: Path) -> tuple[int, str]:
        """The folder that holds a path, and its name there."""
        node = ROOT
        parts = path.relative_to(self.root).parts
        for part in parts[:-1]:
            node = self.folders[node][part]
        return node, parts[-1]

    def _node(self, path: Path) -> int:
        if path == self.root:
            return ROOT
        folder, name = self._at(path)
        return self.folders[folder][name]

    def _change(self, *names: tuple[int, str, int | None, int | None]) -> None:
        for folder, name, _, new in names:
            if new is None:
                del self.folders[folder][name]
            else:
                self.folders[folder][name] = new
        self.events.append(Change(names, names[-1][0]))

    def _synced(self, path: Path, operation: str) -> None:
        # which function of the store asked for it: past the operation itself and the function that only names its errors
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_code.co_name == "fsync_folder":
            frame = frame.f_back
        site = f"{operation} in {frame.f_code.co_name}"
        node = self._node(path)
        self.sites.add(site)
        if site == self.drop:
            self.first_dropped = min(self.first_dropped, len(self.events))
        else:
            self.events.append(Synced(node))

    def create(self, path: Path) -> io.FileIO:
        file = super().create(path)
        folder, name = self._at(path)
        old = self.folders[folder].get(name)
        node = next(self._ids) if old is None else old
        self.files[node] = b""
        self.events.append(Content(node, b""))
        if old is None:
            self._change((folder, name, None, node))
        return file

    def write(self, file: io.FileIO, data: Any) -> None:
        super().write(file, data)
        node = self._node(Path(file.name))
        self.files[node] += bytes(memoryview(data).cast("B"))
        self.events.append(Content(node, self.files[node]))

    def fsync(self, file: io.FileIO) -> None:
        self._synced(Path(file.name), "fsync")

    def fsync_folder(self, folder: Path) -> None:
        self._synced(folder, "fsync_folder")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        (old_folder, old_name), (folder, name) = self._at(source), self._at(target)
        node = self.folders[old_folder][old_name]
        self._change((old_folder, old_name, node, None), (folder, name, self.folders[folder].get(name), node))

    def link(self, source: Path, target: Path) -> None:
        if target.suffix == self.unlinkable:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        super().link(source, target)
        self._change((*self._at(target), None, self._node(source)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._change((*self._at(path), self._node(path), None))

    def mkdir(self, folder: Path) -> None:
        super().mkdir(folder)
        node = next(self._ids)
        self.folders[node] = {}
        self._change((*self._at(folder), None, node))

    def rmdir(self, folder: Path) -> None:
        super().rmdir(folder)
        self._change((*self._at(folder), self._node(folder), None))

    def acknowledge(self, what: Any) -> None:
        self.events.append(Acknowledged(what))


@dataclass
class Counts:
    """How many crash points and states there were, and at how many points the states were too many and drawn by chance."""

    points: int = 0
    states: int = 0
    sampled_points: int = 0


def crash_states(
    events: list[Event], most: int, counts: Counts, points: Iterable[int]
) -> Iterator[tuple[Tree, list[Any]]]:
    """Each state that a crash after the first `points` of the `events` may leave, with what had been acknowledged by then; no
    state twice. A point with more than `most` combinations gives that many by chance (seeded), nothing and everything among
    them."""
    seen: set[str] = set()
    for point in points:
        past = events[:point]
        acknowledged = [event.what for event in past if isinstance(event, Acknowledged)]
        counts.points += 1
        choices = _Choices(past)
        if choices.total > most:
            counts.sampled_points += 1
        for tree in choices.trees(most, random.Random(point)):
            key = hashlib.sha256(repr((_listing(tree), len(acknowledged))).encode()).hexdigest()
            if key not in seen:
                seen.add(key)
                counts.states += 1
                yield tree, acknowledged


def write_tree(folder: Path, tree: Tree) -> None:
    """Put a state on a real disk."""
    folder.mkdir()
    for name, value in tree.items():
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)
        else:
            write_tree(folder / name, value)


class _Choices:
    """What is open at one crash point: which pending changes happened, and which content each file has."""

    def __init__(self, past: list[Event]) -> None:
        synced_at: dict[int, int] = {}
        for index, event in enumerate(past):
            if isinstance(event, Synced):
                synced_at[event.node] = index
        self.changes = [
            (event, synced_at.get(event.certain_by, -1) > index)
            for index, event in enumerate(past)
            if isinstance(event, Change)
        ]
        contents: dict[int, list[bytes]] = {}  # the one that is certain, then those that may be
        for index, event in enumerate(past):
            if isinstance(event, Content):
                if synced_at.get(event.file, -1) > index:
                    contents[event.file] = [event.data]
                else:
                    known = contents.setdefault(event.file, [b""])
                    known += [event.data, event.data[: len(event.data) // 2], bytes(len(event.data))]
        self.contents = {file: list(dict.fromkeys(known)) for file, known in contents.items()}
        self.pending = sum(not certain for _, certain in self.changes)
        self.open_files = [file for file, known in self.contents.items() if len(known) > 1]
        self.total = 2**self.pending
        for file in self.open_files:
            self.total *= len(self.contents[file])

    def trees(self, most: int, chance: random.Random) -> Iterator[Tree]:
        sizes = [len(self.contents[file]) for file in self.open_files]
        if self.total <= most:
            for happened in itertools.product((True, False), repeat=self.pending):
                for picks in itertools.product(*map(range, sizes)):
                    yield self._tree(happened, picks)
            return
        yield self._tree((True,) * self.pending, [0] * len(sizes))
        yield self._tree((True,) * self.pending, [1] * len(sizes))
        yield self._tree((False,) * self.pending, [0] * len(sizes))
        for _ in range(most - 3):
            share = chance.choice((0.1, 0.5, 0.9))
            yield self._tree(
                [chance.random() < share for _ in range(self.pending)], [chance.randrange(size) for size in sizes]
            )

    def _tree(self, happened: Any, picks: Any) -> Tree:
        folders: dict[int, dict[str, int]] = {}
        pending = iter(happened)
        for change, certain in self.changes:
            if not certain and not next(pending):
                continue
            possible = all(folders.get(folder, {}).get(name) == old for folder, name, old, _ in change.names)
            if not certain and not possible:
                continue  # the same as if it had not happened
            for folder, name, _, new in change.names:
                if new is None:
                    folders.setdefault(folder, {}).pop(name, None)
                else:
                    folders.setdefault(folder, {})[name] = new
        content = {file: known[0] for file, known in self.contents.items()}
        for file, pick in zip(self.open_files, picks, strict=True):
            content[file] = self.contents[file][pick]

        def below(folder: int) -> Tree:
            return {
                name: content[node] if node in content else below(node)
                for name, node in sorted(folders.get(folder, {}).items())
            }

        return below(ROOT)


def _listing(tree: Tree, prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in tree.items():
        if isinstance(value, bytes):
            rows.append((f"{prefix}{name}", hashlib.sha256(value).hexdigest()))
        else:
            rows += [(f"{prefix}{name}/", ""), *_listing(value, f"{prefix}{name}/")]
    return rows
