"""Sends the shards of a stage to a pool of workers and keeps each shard as it comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from selfplay.core.pool import Pool
from selfplay.execution.quarantine import GiveUp, answers
from selfplay.execution.reporter import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.store.writer import StageWriter

Item = TypeVar("Item")


GIVEN_UP = ".quarantined"


class UnderWay(Protocol):
    """What work by shards needs of its surroundings; a run's `Context` is one."""

    @property
    def reporter(self) -> Reporter: ...

    @property
    def stop(self) -> StopFlag: ...


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive pieces of `size` items; one empty piece when there are none, so that every table has a shard."""
    return [items[start : start + size] for start in range(0, len(items), size)] or [items]


def run_shards(
    context: UnderWay,
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
    give_up: GiveUp[Item] | None = None,
) -> None:
    """Send the shards that are not kept yet to a pool and keep each as it comes back.

    `finish` turns a shard's index and result into the rows to keep. After a stop was asked for no new shard is sent; those
    under way are still kept, then Interrupted is raised. A shard that kills its worker is halved (see halving.py); what
    `give_up` gives up is kept beside the table (see `quarantined`).
    """
    kept = writer.shards(table)
    total = sum(len(shard) for shard in shards)
    context.reporter.begin(title, total, sum(len(shards[index]) for index in kept), unit)
    todo = [index for index in range(len(shards)) if index not in kept]

    def asked() -> Iterator[tuple[int, Sequence[Item]]]:
        for index in todo:
            if context.stop.exit_code is not None:
                return
            # a shard without items costs no call: its result is None
            if shards[index]:
                yield index, shards[index]

    try:
        for index in todo:
            if not shards[index]:
                writer.write_shard(index, finish(index, None), table)
        for index, answer in answers(
            pool, method, asked(), arguments, give_up, context.reporter.say, title,
            lambda: context.stop.exit_code is not None, len(quarantined(writer, table)),
        ):  # fmt: skip
            # an attempt that was killed between the two may have left names, which need not have to go again
            if answer.given_up or index in writer.shards(_given_up(table)):
                columns = [pa.array(column, pa.string()) for column in zip(*answer.given_up, strict=True)]
                names = pa.table(columns or [pa.array([], pa.string())] * 2, names=["name", "reason"])
                writer.write_shard(index, names, _given_up(table))
            writer.write_shard(index, finish(index, answer.table), table)
            context.reporter.advance(len(shards[index]))
    finally:
        context.reporter.end()
    context.stop.check()


def _given_up(table: str) -> str:
    """Where the names of what was given up for a table are kept."""
    return f"{GIVEN_UP}/{table.strip('.') or 'rows'}"


def quarantined(writer: StageWriter, *tables: str) -> dict[str, str]:
    """What a stage gave up for these of its tables because it killed its worker, with the reasons, by name."""
    found: dict[str, str] = {}
    for table in tables:
        for index in sorted(writer.shards(_given_up(table)) & writer.shards(table)):
            rows = writer.read_shard(index, _given_up(table))
            found |= dict(zip(rows["name"].to_pylist(), rows["reason"].to_pylist(), strict=True))
    return found
