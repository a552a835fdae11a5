"""Sends the shards of a stage to a pool of workers and writes each shard when its result arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, overload

import pyarrow as pa

from selfplay.core.pool import IN_FLIGHT, Pool
from selfplay.execution.quarantine import QUARANTINED, QuarantinePolicy, run_with_quarantine
from selfplay.execution.reporter import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.store.writer import StageWriter

Item = TypeVar("Item")


QUARANTINED_FOLDER = ".quarantined"
_NAME_COLUMNS = ["name", "reason"]


class ShardContext(Protocol):
    """What `run_shards` needs of its caller; a run's `Context` is one."""

    @property
    def reporter(self) -> Reporter: ...

    @property
    def stop(self) -> StopFlag: ...


class LazyItems(Sequence[Item]):
    """Items that are made each time they are read, so that those of a whole round are never in memory together. `make` returns
    the items from a first position up to, and without, a last one."""

    def __init__(self, num_items: int, make: Callable[[int, int], Sequence[Item]]) -> None:
        self._range, self._make = range(num_items), make

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> LazyItems[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | LazyItems[Item]:
        if isinstance(index, int):
            position = self._range[index]
            return self._make(position, position + 1)[0]
        part: LazyItems[Item] = LazyItems(0, self._make)
        part._range = self._range[index]
        assert part._range.step == 1, "items are read in order"
        return part

    def __iter__(self) -> Iterator[Item]:
        return iter(self._make(self._range.start, self._range.stop)) if self._range else iter(())


@dataclass(frozen=True, slots=True)
class Shard(Generic[Item]):
    """The items of one shard, and the files that they were read from (see `store.writer.ShardSource`)."""

    index: int
    items: Sequence[Item]
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shards(Generic[Item]):
    """The shards of a table. `indices` gives the index of each shard that is there, and None while there is no further one yet;
    it begins anew at each call. `shard` returns the one of an index. `num_items` are expected in all."""

    indices: Callable[[], Iterable[int | None]]
    shard: Callable[[int], Shard[Item]]
    num_items: int

    @classmethod
    def of(cls, shards: Sequence[Sequence[Item]], reads: Mapping[str, str] = MappingProxyType({})) -> Shards[Item]:
        """Shards that are all there, and were read from the files `reads`."""
        return cls(lambda: range(len(shards)), lambda index: Shard(index, shards[index], reads), sum(map(len, shards)))


def cut(items: Sequence[Item], size: int, starts: Sequence[int] | None = None) -> list[Sequence[Item]]:
    """Consecutive shards of `size` items; one empty shard when there are no items, so that every table has a shard. With
    `starts` (the first item of each unit, ascending from 0) a shard goes on to the end of its last unit."""
    return [items[start:stop] for start, stop in pairwise(_borders(len(items), size, starts))]


def cut_as_begun(
    writer: StageWriter,
    tables: Sequence[str],
    items: Sequence[Item],
    size: int,
    starts: Sequence[int] | None = None,
    reads: Mapping[str, str] = MappingProxyType({}),
) -> list[Sequence[Item]]:
    """The same, but what an earlier attempt began of these tables keeps the borders by which it was cut then: `size` may have
    changed since. What it made from other files than `reads` is removed."""
    for table in tables:
        if not all(writer.is_kept(index, reads, table) for index in writer.shards(table)):
            writer.drop_shards((), table)
            writer.drop_shards((), _quarantined_table(table))
    folders = [*tables, *map(_quarantined_table, tables)]
    borders = writer.borders(_borders(len(items), size, starts), folders)
    return [items[start:stop] for start, stop in pairwise(borders)]


def _borders(num_items: int, size: int, starts: Sequence[int] | None) -> list[int]:
    """The first item of each shard, and the number of items."""
    borders = [0]
    for start in starts[1:] if starts is not None else range(size, num_items, size):
        if start - borders[-1] >= size:
            borders.append(start)
    return [*borders, num_items]


def run_shards(
    context: ShardContext,
    writer: StageWriter,
    pool: Pool,
    method: str,
    shards: Shards[Item],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    finish: Callable[[int, Any], pa.Table],
    *,
    title: str,
    unit: str,
    table: str = "",
    quarantine: QuarantinePolicy[Item] | None = None,
    size: int | None = None,
    window: int = IN_FLIGHT,
    duration: Callable[[Item], float] | None = None,
    on_kept: Callable[[int], None] = lambda index: None,
) -> None:
    """Send the shards that are not written yet to a pool and write each when its result arrives.

    A shard that was written from other files than those that are there now is written again. `on_kept` is called with the index
    of each shard that is there: written now, or by an earlier attempt.

    `finish` turns a shard's index and result into the rows to write. After a stop request no new shard is sent; those that are
    running are still written, then Interrupted is raised. A shard that crashes its worker is bisected (see quarantine.py); the
    names of quarantined items are written beside the table when they are found (see `quarantined`). Those of a shard that an
    earlier attempt did not finish are its suspects in this one.

    A call takes `size` units (None: a whole shard), and each worker holds `window` calls: a worker that serves several at a time
    is kept full across the borders of shards. A shard is written when its last call has ended. Of a shard's calls, those with the
    item of the longest `duration` (in any unit) are sent first.
    """
    kept = writer.shards(table)
    found_before = writer.shards(_quarantined_table(table))
    suspects = {index: _names(writer, index, table)["name"].to_pylist() for index in found_before - kept}
    progress = context.reporter.begin(title, shards.num_items, 0, unit)
    # the shards that were sent and are not written
    under_way: dict[int, Shard[Item]] = {}
    seen: set[int] = set()

    def write(shard: Shard[Item], result: Any) -> None:
        writer.write_shard(shard.index, finish(shard.index, result), table, shard.reads)
        on_kept(shard.index)

    def pending() -> Iterator[tuple[int, Sequence[Item]] | None]:
        for index in shards.indices():
            if context.stop.exit_code is not None:
                return
            if index is None:
                yield None
                continue
            shard = shards.shard(index)
            seen.add(index)
            if writer.is_kept(index, shard.reads, table):
                progress.adopt(len(shard.items))
                writer.announce(index, table)
                on_kept(index)
            # a shard without items needs no call: its result is None
            elif not shard.items:
                write(shard, None)
            else:
                under_way[index] = shard
                yield index, shard.items

    def keep_names(index: int, found: Sequence[tuple[str, str]]) -> None:
        columns = [pa.array(column, pa.string()) for column in zip(*found, strict=True)]
        names = pa.table(columns or [pa.array([], pa.string())] * 2, names=_NAME_COLUMNS)
        writer.write_shard(index, names, _quarantined_table(table))

    try:
        for index, result in run_with_quarantine(
            pool, method, pending(), arguments, quarantine, context.reporter.say, title,
            lambda: context.stop.exit_code is not None, len(quarantined(writer, table)), suspects,
            # a suspect whose turn has not come yet stays one
            lambda index, found: keep_names(index, [*found, *_others(suspects.get(index, ()), found)]),
            size, window, duration,
        ):  # fmt: skip
            if result.quarantined or index in found_before:
                keep_names(index, result.quarantined)
            shard = under_way.pop(index)
            write(shard, result.table)
            progress.advance(len(shard.items))
    finally:
        progress.end()
    context.stop.check()
    for each in (table, _quarantined_table(table)):
        writer.drop_shards(seen, each)


def _quarantined_table(table: str) -> str:
    """The table that names the quarantined items of `table`."""
    return f"{QUARANTINED_FOLDER}/{table.strip('.') or 'rows'}"


def _names(writer: StageWriter, index: int, table: str) -> pa.Table:
    """The quarantined items of a shard of `table`: name and reason."""
    return writer.read_shard(index, _quarantined_table(table))


def _others(suspects: Sequence[str], found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The suspects that are not found again yet."""
    names = {name for name, _ in found}
    return [(name, QUARANTINED) for name in suspects if name not in names]


def quarantined(writer: StageWriter, *tables: str) -> dict[str, str]:
    """The items of these tables of a stage that crashed their workers, of the shards that are kept: reasons by name."""
    found: dict[str, str] = {}
    for table in tables:
        for index in sorted(writer.shards(_quarantined_table(table)) & writer.shards(table)):
            rows = _names(writer, index, table)
            found |= dict(zip(rows["name"].to_pylist(), rows["reason"].to_pylist(), strict=True))
    return found
