"""How a stage gets past a shard that crashes its worker: the shard is bisected until the single prompt (or response) that causes
the crash is found. That item is quarantined with a reason instead of crashing workers for ever.

A whole shard may crash two workers, because a crash may have another cause. A part of one may crash one worker before it is split
again, and a single item two before it is quarantined. All other items of the shard are processed as usual and keep their order:
their rows equal those of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.pool import Call, Pool, WorkerCrash
from selfplay.execution.row_check import check_result_rows, requested_rows

Item = TypeVar("Item")

MAX_CRASHES = 2
# The reason that is stored with the item. The cause of the crash is reported, and is in the worker's log.
QUARANTINED = "quarantined: its worker died twice"


@dataclass(frozen=True)
class QuarantinePolicy(Generic[Item]):
    """What happens to an item that crashes its worker. `name`: the item's name in messages; `rows`: the rows that take
    the place of its result, given the reason (None: there are no such rows, so the stage fails); `max_items`: how many may be
    quarantined."""

    name: Callable[[Item], str]
    rows: Callable[[Item, str], pa.Table] | None = None
    max_items: int = 0


@dataclass(frozen=True, slots=True)
class SubShard(Generic[Item]):
    """Consecutive items of one shard, from position `start`; -1: the whole shard."""

    shard: int
    start: int
    items: Sequence[Item]

    def __str__(self) -> str:
        first = max(self.start, 0)
        return f"shard {self.shard}, items {first} to {first + len(self.items) - 1}"

    @property
    def max_crashes(self) -> int:
        """How many workers it may crash."""
        return MAX_CRASHES if self.start == -1 or len(self.items) == 1 else 1

    def halves(self) -> list[SubShard[Item]]:
        """Its first and its second half."""
        first, middle = max(self.start, 0), len(self.items) // 2
        return [
            SubShard(self.shard, first, self.items[:middle]),
            SubShard(self.shard, first + middle, self.items[middle:]),
        ]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard's table, and the items of it that were quarantined, as (name, reason)."""

    table: pa.Table
    quarantined: list[tuple[str, str]]


class TooManyPoisonItems(BackendError):
    """More items crashed their workers than `QuarantinePolicy.max_items`."""


def run_with_quarantine(
    pool: Pool,
    method: str,
    shards: Iterable[tuple[int, Sequence[Item]]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    quarantine: QuarantinePolicy[Item] | None,
    say: Callable[[str], None],
    what: str,
    is_stopped: Callable[[], bool] = lambda: False,
    num_before: int = 0,
) -> Iterator[tuple[int, ShardResult]]:
    """The result of each shard, in the order of completion; shards that had to be split come last.

    `shards` is read as workers become free. Without a `quarantine` an item that crashes its worker raises BackendError.
    `what` names the work in messages. After `is_stopped` nothing is split further, and those shards have no result.
    `num_before` items were quarantined by an earlier attempt.
    """
    split: dict[int, _Split[Item]] = {}
    parts: Iterable[SubShard[Item]] = (SubShard(index, -1, items) for index, items in shards)
    while True:
        crashed: list[tuple[SubShard[Item], WorkerCrash]] = []
        for part, result in _call(pool, method, parts, arguments, what):
            for line in pool.drain_events():
                say(line)
            if isinstance(result, WorkerCrash):
                crashed.append((part, result))
            elif part.start == -1:
                yield part.shard, ShardResult(result, [])
            else:
                split[part.shard].tables[part.start] = result
        for line in pool.drain_events():
            say(line)
        halves: list[SubShard[Item]] = []
        for part, crash in crashed:
            whole = split.setdefault(part.shard, _Split())
            if len(part.items) > 1:
                say(f"{what}: {part} killed its worker ({crash.reason}); it is split in two to find the item that does")
                halves += part.halves()
                continue
            name, rows = _quarantine(part, crash, quarantine, num_before, what)
            num_before += 1
            say(f"{what}: {name} is {QUARANTINED} ({crash.reason}); the run continues without it")
            whole.tables[max(part.start, 0)] = rows
            whole.quarantined.append((name, QUARANTINED))
        if not halves:
            break
        if is_stopped():
            return
        parts = halves
    for index, whole in sorted(split.items()):
        tables = [whole.tables[start] for start in sorted(whole.tables)]
        yield index, ShardResult(pa.concat_tables(tables, promote_options="permissive"), whole.quarantined)


def _quarantine(
    part: SubShard[Item], crash: WorkerCrash, quarantine: QuarantinePolicy[Item] | None, num_before: int, what: str
) -> tuple[str, pa.Table]:
    """The name of a single item that crashed its worker, and the rows in its place. Raises BackendError where it cannot be
    quarantined, or is one too many."""
    item = part.items[0]
    name = quarantine.name(item) if quarantine is not None else str(part)
    if quarantine is None or quarantine.rows is None:
        raise BackendError(
            f"{what}: {name} killed its worker {crash.num_crashes} times ({crash.reason}), and the stage needs its result"
            f"{crash.worker}",
            "Committed work is safe. The usual reason is that memory ran out: free some, or lower the worker's batch size, then "
            "`selfplay resume`.",
        )
    if num_before >= quarantine.max_items:
        raise TooManyPoisonItems(
            f"{what}: {num_before + 1} items have killed their workers twice, {name} the last ({crash.reason}); "
            f"cluster.max_poison_items is {quarantine.max_items}{crash.worker}",
            "Committed work is safe. So many crashes have a common cause, which the workers' logs show. Fix it, then "
            "`selfplay resume` (or resume with a larger cluster.max_poison_items).",
        )
    return name, quarantine.rows(item, QUARANTINED)


class _Split(Generic[Item]):
    """Results of a shard that was split: tables by the position of their first item, and the quarantined items."""

    def __init__(self) -> None:
        self.tables: dict[int, pa.Table] = {}
        self.quarantined: list[tuple[str, str]] = []


def _call(
    pool: Pool,
    method: str,
    parts: Iterable[SubShard[Item]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    what: str,
) -> Iterator[tuple[SubShard[Item], Any]]:
    sent: dict[int, tuple[SubShard[Item], list[object] | None]] = {}

    def calls() -> Iterator[Call]:
        for key, part in enumerate(parts):
            given = arguments(part.items)
            sent[key] = (part, requested_rows(given))
            yield Call(key, given, part.max_crashes)

    for key, result in pool.map(method, calls()):
        part, rows = sent.pop(key)
        if rows is not None and not isinstance(result, WorkerCrash):
            check_result_rows(f"{what}: {part}", rows, result)
        yield part, result
