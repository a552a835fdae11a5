"""Sends the shards of a stage to a pool of workers and writes each shard when its result arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar, overload

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


def cut(items: Sequence[Item], size: int, starts: Sequence[int] | None = None) -> list[Sequence[Item]]:
    """Consecutive shards of `size` items; one empty shard when there are no items, so that every table has a shard. With
    `starts` (the first item of each unit, ascending from 0) a shard goes on to the end of its last unit."""
    if starts is None:
        return [items[start : start + size] for start in range(0, len(items), size)] or [items]
    cuts = [0]
    for start in [*starts[1:], len(items)]:
        if start - cuts[-1] >= size or start == len(items):
            cuts.append(start)
    return [items[start:stop] for start, stop in pairwise(cuts)] or [items]


def run_shards(
    context: ShardContext,
    writer: StageWriter,
    pool: Pool,
    method: str,
    shards: Sequence[Sequence[Item]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    finish: Callable[[int, Any], pa.Table],
    *,
    title: str,
    unit: str,
    table: str = "",
    quarantine: QuarantinePolicy[Item] | None = None,
    size: int | None = None,
    window: int = IN_FLIGHT,
) -> None:
    """Send the shards that are not written yet to a pool and write each when its result arrives.

    `finish` turns a shard's index and result into the rows to write. After a stop request no new shard is sent; those that are
    running are still written, then Interrupted is raised. A shard that crashes its worker is bisected (see quarantine.py); the
    names of quarantined items are written beside the table when they are found (see `quarantined`). Those of a shard that an
    earlier attempt did not finish are its suspects in this one.

    A call takes `size` units (None: a whole shard), and each worker holds `window` calls: a worker that serves several at a time
    is kept full across the borders of shards. A shard is written when its last call has ended.
    """
    kept = writer.shards(table)
    total = sum(len(shard) for shard in shards)
    context.reporter.begin(title, total, sum(len(shards[index]) for index in kept), unit)
    missing = [index for index in range(len(shards)) if index not in kept]

    def pending() -> Iterator[tuple[int, Sequence[Item]]]:
        for index in missing:
            if context.stop.exit_code is not None:
                return
            # a shard without items needs no call: its result is None
            if shards[index]:
                yield index, shards[index]

    found_before = writer.shards(_quarantined_table(table))
    suspects = {index: _names(writer, index, table)["name"].to_pylist() for index in found_before - kept}

    def keep_names(index: int, found: Sequence[tuple[str, str]]) -> None:
        columns = [pa.array(column, pa.string()) for column in zip(*found, strict=True)]
        names = pa.table(columns or [pa.array([], pa.string())] * 2, names=_NAME_COLUMNS)
        writer.write_shard(index, names, _quarantined_table(table))

    try:
        for index in missing:
            if not shards[index]:
                writer.write_shard(index, finish(index, None), table)
        for index, result in run_with_quarantine(
            pool, method, pending(), arguments, quarantine, context.reporter.say, title,
            lambda: context.stop.exit_code is not None, len(quarantined(writer, table)), suspects,
            # a suspect whose turn has not come yet stays one
            lambda index, found: keep_names(index, [*found, *_others(suspects.get(index, ()), found)]),
            size, window,
        ):  # fmt: skip
            if result.quarantined or index in suspects:
                keep_names(index, result.quarantined)
            writer.write_shard(index, finish(index, result.table), table)
            context.reporter.advance(len(shards[index]))
    finally:
        context.reporter.end()
    context.stop.check()


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
