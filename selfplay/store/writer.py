"""Writing one stage: shards kept one by one in `.work/`, then everything committed at once."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Len
from pydantic import ConfigDict

from selfplay.core.errors import CorruptionError
from selfplay.core.parse_record import STRICT, parse_record
from selfplay.core.timing import part
from selfplay.store import durable
from selfplay.store.commits import Commit, write_commit
from selfplay.store.layout import (
    COMMIT,
    METRICS,
    Layout,
    part_index,
    part_name,
    resume_of,
    sidecar_index,
    sidecar_name,
    sidecars_in,
)
from selfplay.store.manifest import Digest, FileEntry, check_files, hash_files, read_manifest, write_manifest
from selfplay.store.symlinks import forbid_symlinks_below

if TYPE_CHECKING:
    import pyarrow as pa

    from selfplay.core.outcomes import Outcome

STAGE_MARK = ".stage.json"
# In the folder of a table: where its shards were cut.
BORDERS = ".borders.json"


@dataclass(frozen=True, slots=True)
class StageInputs:
    """What a stage is made from: the run's fingerprint and the digests of the commits it reads as a whole ("ROUND/STAGE" ->
    digest). It is the content of the mark of a work folder. What it reads shard by shard is recorded with its shards. `made_with`
    is what else decides the rows and may change on a resume, such as dtypes that follow the devices."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    fingerprint: str
    inputs: dict[str, str]
    made_with: str = ""


@dataclass(frozen=True, slots=True)
class ShardSource:
    """What a sidecar records beside its file. `reads`: the files that the shard was made from, by name in the run
    ("001/sample/part-00003.parquet" -> sha256)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    files: list[FileEntry]
    reads: dict[str, Digest] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Borders:
    """Where the shards of tables were cut: the first item of each, and the number of items."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    borders: Annotated[list[int], Len(min_length=2)]


class StageWriter:
    """The work folder of one stage. A shard that was kept by an earlier attempt is adopted after its digest is checked.

    `on_shard` is called with the index of each shard of the stage's own table that is written, `may_write` before anything is
    written: it may raise. Other threads may read shards while this one writes and commits.
    """

    def __init__(
        self,
        layout: Layout,
        round_number: int,
        stage: str,
        inputs: StageInputs,
        on_commit: Callable[[], None] = lambda: None,
        on_shard: Callable[[int], None] = lambda index: None,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.round = round_number
        self.stage = stage
        self.folder = layout.stage_work(round_number, stage)
        self._target = layout.stage(round_number, stage)
        self._inputs = inputs
        self._on_commit = on_commit
        self._on_shard = on_shard
        self._may_write = may_write
        # held while the folder is read, and while it gets its final name
        self._moving = threading.Lock()
        self._entries: dict[str, FileEntry] = {}
        self._reads: dict[str, dict[str, str]] = {}
        self._open()
        self.adopted = sum(len(self.shards(table)) for table in self._tables_present())

    def _open(self) -> None:
        forbid_symlinks_below(self.folder, self.folder.parent)
        found = read_stage_mark(self.folder)
        if found is not None and found != self._inputs:
            # The inputs of a stage are immutable commits: these shards were made from others and cannot be adopted.
            durable.remove_tree(self.folder)
        durable.make_folder(self.folder)
        if not (self.folder / STAGE_MARK).is_file():
            durable.write_file(self.folder / STAGE_MARK, durable.json_with_checksum(dataclasses.asdict(self._inputs)))

    def _tables_present(self) -> list[str]:
        return sorted({path.parent.relative_to(self.folder).as_posix() for path in sidecars_in(self.folder)})

    def shards(self, table: str = "") -> set[int]:
        """Indices of the shards of a table that are kept already (digest-checked the first time they are seen)."""
        found = set()
        folder = self.folder / table
        for sidecar in sorted(folder.glob(".part-*.json")):
            index = sidecar_index(sidecar)
            if index is not None:
                self._adopt(folder / part_name(index), sidecar)
                found.add(index)
        return found

    def _adopt(self, path: Path, sidecar: Path) -> None:
        name = path.relative_to(self.folder).as_posix()
        if name in self._entries:
            return
        entry, reads = read_sidecar(sidecar)
        for item in check_files(path.parent, [entry], rows=True, digests=True):
            raise CorruptionError(str(item), shard_remedy(sidecar))
        self._entries[name], self._reads[name] = dataclasses.replace(entry, path=name), reads

    def borders(self, wanted: Sequence[int], tables: Sequence[str]) -> list[int]:
        """The first item of each shard of these tables, and the number of items: as `wanted`, but shards up to the last one that
        an earlier attempt began keep the borders by which it cut them. They are recorded in the folder of the first table."""
        path = self.folder / tables[0] / BORDERS
        num_begun = max((1 + index for table in tables for index in self.shards(table)), default=0)
        borders = list(wanted)
        if num_begun:
            before = read_borders(path)
            if before[-1] != wanted[-1] or len(before) <= num_begun:
                raise CorruptionError(f"{path} is of other shards", _made_again(self.folder))
            begun = before[: num_begun + 1]
            borders = [*begun, *(border for border in wanted if border > begun[-1])]
            if borders == before:
                return borders
        self._may_write()
        durable.make_folder(path.parent)
        durable.write_file(path, durable.json_with_checksum(dataclasses.asdict(Borders(borders))))
        return borders

    def entry(self, index: int, table: str = "") -> FileEntry:
        """A shard kept before: its file, by path in the stage's folder."""
        return self._entries[_shard_name(index, table)]

    def reads(self, index: int, table: str = "") -> dict[str, str]:
        """What a shard kept before was made from: see `ShardSource`."""
        return self._reads[_shard_name(index, table)]

    def is_kept(self, index: int, reads: Mapping[str, str], table: str = "") -> bool:
        """Whether a shard is there that was made from these files: by this attempt, or by an earlier one and adopted."""
        return _shard_name(index, table) in self._entries and self.reads(index, table) == reads

    @part("writing")
    def write_shard(
        self, index: int, rows: pa.Table, table: str = "", reads: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Keep one shard, in the place of an earlier one if there is one: durable when this returns. A kill in between leaves
        neither or the new one. `reads`: see `ShardSource`."""
        data = durable.encode_parquet(rows)
        # last, because a thread may encode for a while after a stop at once
        self._may_write()
        folder = self.folder / table
        durable.make_folder(folder)
        path = folder / part_name(index)
        if (folder / sidecar_name(index)).is_file():
            durable.discard(folder / sidecar_name(index))
            durable.fsync_folder(folder)
        entry = FileEntry(path.name, len(data), durable.sha256_bytes(data), rows.num_rows)
        durable.write_file(path, data)
        self._may_write()
        write_manifest(folder / sidecar_name(index), {"reads": dict(reads)}, [entry])
        name = _shard_name(index, table)
        self._entries[name], self._reads[name] = dataclasses.replace(entry, path=name), dict(reads)
        self.announce(index, table)

    def drop_shards(self, others: Collection[int], table: str = "") -> None:
        """Remove the other shards of a table: those of an earlier attempt, of which what the stage is made from has none now."""
        for index in self.shards(table) - {*others}:
            self._may_write()
            folder = self.folder / table
            durable.discard(folder / sidecar_name(index))
            durable.fsync_folder(folder)
            durable.discard(folder / part_name(index))
            del self._entries[_shard_name(index, table)]

    def keep_shard(
        self, index: int, rows: pa.Table, table: str = "", reads: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Keep a shard that follows from more than one shard of what it is made from: an earlier attempt's stays where it is the
        same."""
        if self.is_kept(index, reads, table) and self.read_shard(index, table).equals(rows):
            self.announce(index, table)
        else:
            self.write_shard(index, rows, table, reads)

    def announce(self, index: int, table: str = "") -> None:
        """Say that a shard is there, to those who read the stage's own table while it is made. `write_shard` does it."""
        if not table:
            self._on_shard(index)

    def read_shard(self, index: int, table: str = "", columns: list[str] | None = None) -> pa.Table:
        """A shard kept before, by this attempt or an earlier one; `columns` None: all."""
        with self._moving:
            return read_parquet(self.folder / table / part_name(index), columns)

    def read_shards(self, table: str = "", columns: list[str] | None = None) -> pa.Table:
        """All shards of a table, in order."""
        import pyarrow as pa

        return pa.concat_tables([self.read_shard(index, table, columns) for index in sorted(self.shards(table))])

    @part("committing")
    def adopt_folder(self, source: Path, name: str, files: Sequence[FileEntry] | None = None) -> list[FileEntry]:
        """Move a finished folder of files (a policy) into the stage and fsync it. Returns its files with their digests: `files`,
        where its writer has hashed them (by path in the stage), else they are hashed here, for the only time in an attempt. They
        get the mode of files that this process creates. Raises CorruptionError for a folder that does not hold `files`."""
        target = self.folder / name
        forbid_symlinks_below(source, source.parent)
        durable.remove_tree(target)
        durable.set_modes(source, like=self.folder / STAGE_MARK)
        durable.sync_tree(source)
        durable.move(source, target)
        if files is None:
            entries = hash_files(self.folder, name)
        else:
            entries = list(files)
            there = {path.relative_to(self.folder).as_posix() for path in target.rglob("*") if path.is_file()}
            others = (
                f"{path} is not among the files that were written" for path in sorted(there - {e.path for e in entries})
            )
            for item in (*check_files(self.folder, entries), *others):
                raise CorruptionError(
                    f"{item} (it was written just before)", "Check the disk, and train the round again."
                )
        self._entries |= {entry.path: entry for entry in entries}
        return entries

    def discard(self, name: str) -> None:
        """Remove a folder that an earlier attempt adopted before it was killed: this attempt brings its own."""
        durable.remove_tree(self.folder / name)

    def commit(
        self,
        attempt: int,
        created: str,
        seconds: float,
        outcome: Outcome,
        versions: Mapping[str, str] = MappingProxyType({}),
        shard_inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> Commit:
        """Write the outcome and the commit, and publish the folder under its final name. `seconds` is this attempt's share;
        `shard_inputs` are the digests of the commits that it read shard by shard."""
        self._may_write()
        self._discard_unlisted()
        data = durable.pretty_json(outcome.to_json())
        durable.write_file(self.folder / METRICS, data)
        self._entries[METRICS] = FileEntry(METRICS, len(data), durable.sha256_bytes(data))
        files = [self._entries[name] for name in sorted(self._entries)]
        commit = Commit(
            round=self.round,
            stage=self.stage,
            fingerprint=self._inputs.fingerprint,
            inputs=dict(sorted({**self._inputs.inputs, **shard_inputs}.items())),
            files=files,
            attempt=attempt,
            created=created,
            seconds=seconds,
            versions=dict(versions),
        )
        write_commit(self.folder, commit)
        self._may_write()
        with self._moving:
            durable.publish_folder(self.folder, self._target)
            self.folder = self._target
        self._on_commit()
        return commit

    def _discard_unlisted(self) -> None:
        """Remove files that no entry names (a shard that a crash left without its sidecar, a half-written file, a foreign file):
        they would be published with the folder but not listed in the commit."""
        known = {STAGE_MARK, METRICS, COMMIT, *self._entries}
        for name, entry in self._entries.items():
            if entry.rows is not None:
                path = Path(name)
                known.add((path.parent / sidecar_name(part_index(path.name))).as_posix())
        for path in sorted(self.folder.rglob("*")):
            # a kill may come before the folder gets its final name: the borders are needed for as long as the shards
            is_known = path.name == BORDERS or path.relative_to(self.folder).as_posix() in known
            if not path.is_dir() and not is_known:
                durable.discard(path)


def _shard_name(index: int, table: str) -> str:
    """A shard's path in the stage's folder."""
    return (Path(table) / part_name(index)).as_posix()


def read_stage_mark(folder: Path) -> StageInputs | None:
    """What a work folder's shards were made from; None for a folder that has no mark and no shard yet.
    Raises CorruptionError for a mark that is damaged or missing: its shards might have been made from other inputs."""
    mark = folder / STAGE_MARK
    if not mark.is_file() and not sidecars_in(folder):
        return None
    try:
        return parse_record(StageInputs, durable.parse_checked_json(durable.read_file(mark)))
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{mark} is damaged ({error})", _made_again(folder)) from None


def read_borders(path: Path) -> list[int]:
    """The borders of a table's shards, as `StageWriter.borders` recorded them. Raises CorruptionError."""
    try:
        found = parse_record(Borders, durable.parse_checked_json(durable.read_file(path)))
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", _made_again(path.parent)) from None
    return found.borders


def _made_again(folder: Path) -> str:
    return f"Remove {folder} and {resume_of(folder)}: its shards will be made again."


def read_sidecar(sidecar: Path) -> tuple[FileEntry, dict[str, str]]:
    """The shard that a sidecar in `.work/` vouches for, its path relative to the sidecar's folder, and what it was made from
    (see `ShardSource`). Raises CorruptionError."""
    try:
        found = read_manifest(sidecar).as_record(ShardSource)
        (entry,) = found.files
        if sidecar_name(part_index(entry.path)) != sidecar.name:
            raise ValueError(f"it is of {entry.path}")
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{sidecar} is damaged ({error})", shard_remedy(sidecar)) from None
    return entry, found.reads


def shard_remedy(sidecar: Path) -> str:
    """What to do about a damaged shard."""
    return f"Remove {sidecar} and its part-*.parquet file, and {resume_of(sidecar)}: that shard will be made again."


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file, without datasets' cache (it can serve stale data) and without Arrow's datasets, which take longer for one
    file and make columns of folder names."""
    import pyarrow.parquet as pq

    source = io.BytesIO(path.read_bytes()) if columns is None else path
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        table = file.read(columns)
    return table if columns is None else table.select(columns)
