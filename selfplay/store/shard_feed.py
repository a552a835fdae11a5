"""The shards of a stage's table for a stage that reads them one by one: it begins with those that are there while later ones are
still made.

A shard that is read names the file that it was made from in its sidecar, with the digest. A stage commits after the stage that
it reads, and compares these digests with that commit, so that lineage stays a chain.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.core.errors import CorruptionError
from selfplay.core.timing import part
from selfplay.store.commits import Commit
from selfplay.store.layout import part_index, part_name, stage_name
from selfplay.store.manifest import FileEntry
from selfplay.store.writer import StageWriter

if TYPE_CHECKING:
    import pyarrow as pa

    from selfplay.store.lazy_table import LazyTable, Part


class ShardFeed:
    """The shards of one stage of a round, in the order in which they are made. The stage that makes them gives it a writer
    (`begin`), announces each shard (`add`), and says how it ended (`commit`, `end`)."""

    def __init__(self, round_number: int, stage: str) -> None:
        self.round, self.stage = round_number, stage
        self._changed = threading.Condition()
        self._order: list[int] = []
        self._writer: StageWriter | None = None
        self._folder: Path | None = None
        self._commit: tuple[Commit, str] | None = None
        # of a committed stage: the files of each table that was asked for, by index
        self._tables: dict[str, tuple[LazyTable, dict[int, tuple[Part, FileEntry]]]] = {}
        self._has_ended = False

    @classmethod
    def of(cls, folder: Path, commit: Commit, digest: str) -> ShardFeed:
        """Of a stage that is committed: its shards in order."""
        feed = cls(commit.round, commit.stage)
        feed._folder = folder
        feed.commit(commit, digest)
        return feed

    def begin(self, writer: StageWriter) -> None:
        """The stage has begun."""
        self._writer = writer

    def add(self, index: int) -> None:
        """A shard of the stage's own table, and those of its other tables with the same index, are there and will not change."""
        with self._changed:
            self._order.append(index)
            self._changed.notify_all()

    def commit(self, commit: Commit, digest: str) -> None:
        """The stage is committed; `digest` is that of its commit."""
        with self._changed:
            self._commit = (commit, digest)
            known = {*self._order}
            found = sorted(part_index(entry.path) for entry in _of_table(commit, ""))
            self._order += [index for index in found if index not in known]
        self.end()

    def end(self) -> None:
        """The stage makes no more shards: it is committed, or has stopped."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    @part("waiting")
    def wait(self) -> bool:
        """Wait for the first shard, or for the end of a stage without one. Returns whether there is something to read."""
        with self._changed:
            self._changed.wait_for(lambda: self._order or self._has_ended)
            return bool(self._order) or self._commit is not None

    @part("waiting")
    def wait_for(self, index: int) -> bool:
        """Wait for a shard, or for the end of a stage without it. Returns whether the shard is there."""
        with self._changed:
            self._changed.wait_for(lambda: index in self._order or self._has_ended)
            return index in self._order

    @part("waiting")
    def wait_committed(self) -> tuple[Commit, str] | None:
        """Wait for the stage's end; returns its commit and the digest of that, or None where it has stopped without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended)
            return self._commit

    def available(self) -> Iterator[int | None]:
        """The index of each shard that is there, until the stage ends; None while there is no further one."""
        place = 0
        while True:
            with self._changed:
                found = self._order[place] if place < len(self._order) else None
                if found is None and self._has_ended:
                    return
            place += found is not None
            yield found

    def __iter__(self) -> Iterator[int]:
        """The index of each shard, waiting for it, until the stage ends."""
        for place in count():
            with self._changed:
                with part("waiting"):
                    while place == len(self._order) and not self._has_ended:
                        self._changed.wait()
                if place == len(self._order):
                    return
                found = self._order[place]
            yield found

    def read(self, index: int, columns: list[str] | None = None, table: str = "") -> pa.Table:
        """A shard, or the one with this index of another table of the stage; `columns` None: all. Raises CorruptionError."""
        if self._writer is not None:
            return self._writer.read_shard(index, table, columns)
        lazy, files = self._files(table)
        return lazy.read(files[index][0], columns)

    def digest(self, index: int, table: str = "") -> dict[str, str]:
        """What a shard that is made from the shard `index` of this table records: see `ShardSource`."""
        entry = self._entry(index, table)
        return {f"{stage_name(self.round, self.stage)}/{entry.path}": entry.sha256}

    def _entry(self, index: int, table: str) -> FileEntry:
        if self._writer is not None:
            return self._writer.entry(index, table)
        return self._files(table)[1][index][1]

    def _files(self, table: str) -> tuple[LazyTable, dict[int, tuple[Part, FileEntry]]]:
        # as in `Store.lazy_table`
        from selfplay.store.lazy_table import LazyTable

        if table not in self._tables:
            assert self._folder is not None and self._commit is not None, "a feed has a writer or a commit"
            lazy = LazyTable.of(self._folder, self._commit[0].files, table)
            entries = {part_index(entry.path.rpartition("/")[2]): entry for entry in _of_table(self._commit[0], table)}
            parts = {part_index(part.path.name): part for part in lazy.parts}
            self._tables[table] = lazy, {index: (parts[index], entry) for index, entry in entries.items()}
        return self._tables[table]


def _of_table(commit: Commit, table: str) -> list[FileEntry]:
    return [entry for entry in commit.files if entry.rows is not None and entry.path.rpartition("/")[0] == table]


def check_reads(writer: StageWriter, commits: dict[str, Commit]) -> None:
    """Raise CorruptionError where a shard that a stage has kept was made from another file than the one that is committed.
    `commits`: those of the stages that it reads shard by shard, by "ROUND/STAGE"."""
    committed = {f"{name}/{entry.path}": entry.sha256 for name, commit in commits.items() for entry in commit.files}
    for index in sorted(writer.shards()):
        for name, digest in writer.reads(index).items():
            if committed.get(name) != digest:
                raise CorruptionError(
                    f"{writer.folder / part_name(index)} was made from another {name} than the one that is committed",
                    f"Remove {writer.folder}, and resume: its shards will be made again.",
                )
