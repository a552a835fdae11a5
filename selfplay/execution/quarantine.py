"""How a stage gets past a shard that crashes its worker: the shard is bisected until the single prompt (or response) that causes
the crash is found. That item is quarantined with a reason instead of crashing workers for ever.

A whole shard may crash two workers, because a crash may have another cause. A part of one may crash one worker before it is split
again, and a single item two before it is quarantined. How many items are survived is bounded by `QuarantinePolicy.max_items`
alone: it does not matter how they lie in shards. All other items of the shard are processed as usual and keep their order:
their rows equal those of an undisturbed run.

What is found is kept at once (`on_found`). A later attempt asks for such an item alone and first (`suspects`), so it does not
search again; if its worker survives it this time, it has its rows like any other item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Generic, TypeVar

import pyarrow as pa

from selfplay.core.errors import BackendError
from selfplay.core.pool import IN_FLIGHT, Call, Pool, WorkerCrash
from selfplay.execution.row_check import check_result_rows, requested_rows

Item = TypeVar("Item")

MAX_CRASHES = 2
# The reason that is stored with the item. The cause of the crash is reported, and is in the worker's log.
QUARANTINED = "quarantined: its worker died twice"


@dataclass(frozen=True)
class QuarantinePolicy(Generic[Item]):
    """What happens to an item that crashes its worker. `name`: the item's name in messages; `rows`: the rows that take
    the place of its result, given the reason (None: there are no such rows, so the stage fails); `max_items`: how many may be
    quarantined; `unit`: neighbours for which it is the same are asked for together or not at all (None: each item alone)."""

    name: Callable[[Item], str]
    rows: Callable[[Item, str], pa.Table] | None = None
    max_items: int = 0
    unit: Callable[[Item], str] | None = None


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard's table, and the items of it that were quarantined, as (name, reason)."""

    table: pa.Table
    quarantined: list[tuple[str, str]]


class TooManyPoisonItems(BackendError):
    """More items crashed their workers than `QuarantinePolicy.max_items`."""


@dataclass(frozen=True, slots=True)
class _Part(Generic[Item]):
    """Consecutive units of one shard, each with the position of its first item. `is_whole`: all units of the shard;
    `is_suspect`: one that crashed its worker in an earlier attempt."""

    shard: int
    units: Sequence[tuple[int, Sequence[Item]]]
    is_whole: bool = False
    is_suspect: bool = False

    @property
    def items(self) -> list[Item]:
        return [item for _, unit in self.units for item in unit]

    def __str__(self) -> str:
        last, unit = self.units[-1]
        return f"shard {self.shard}, items {self.units[0][0]} to {last + len(unit) - 1}"

    @property
    def max_crashes(self) -> int:
        """How many workers it may crash."""
        if self.is_suspect:
            return MAX_CRASHES - 1
        return MAX_CRASHES if self.is_whole or len(self.units) == 1 else 1

    def halves(self) -> list[_Part[Item]]:
        """Its first and its second half."""
        middle = len(self.units) // 2
        return [_Part(self.shard, units) for units in (self.units[:middle], self.units[middle:])]


@dataclass(slots=True)
class _Split:
    """Results of a shard that was split: tables by the position of their first item, the quarantined items, and how many parts
    have no result yet."""

    num_open: int
    tables: dict[int, pa.Table] = field(default_factory=dict)
    quarantined: list[tuple[str, str]] = field(default_factory=list)


def run_with_quarantine(
    pool: Pool,
    method: str,
    shards: Iterable[tuple[int, Sequence[Item]] | None],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    quarantine: QuarantinePolicy[Item] | None,
    say: Callable[[str], None],
    what: str,
    is_stopped: Callable[[], bool] = lambda: False,
    num_before: int = 0,
    suspects: Mapping[int, Sequence[str]] | None = None,
    on_found: Callable[[int, list[tuple[str, str]]], None] = lambda index, found: None,
    size: int | None = None,
    window: int = IN_FLIGHT,
    duration: Callable[[Item], float] | None = None,
) -> Iterator[tuple[int, ShardResult]]:
    """The result of each shard, in the order of completion.

    `shards` is read as workers become free (None: there is no further one yet); parts of a shard that was split go first.
    Without a `quarantine` an item that crashes its worker raises BackendError. `what` names the work in messages. After
    `is_stopped` nothing is split further, and those shards have no result. `num_before` items were quarantined by an earlier
    attempt, which also found `suspects` (names by shard) in shards without a result. `on_found` is called with a shard's index
    and the items of it that are quarantined so far, each time that one is. `size`: units in a call (None: a whole shard);
    `window`: calls that each worker holds; `duration`: how long an item may take, in any unit: of a shard's calls, those with the
    longest item go first.
    """
    waiting: deque[_Part[Item]] = deque()
    split: dict[int, _Split] = {}
    more = iter(shards)

    def parts() -> Iterator[_Part[Item] | None]:
        while waiting or not is_stopped():  # a shard that has begun is finished
            if not waiting:
                try:
                    found = next(more)
                except StopIteration:
                    return
                if found is None:
                    yield None
                    continue
                waiting.extend(_parts(*found, quarantine, (suspects or {}).get(found[0], ()), size, duration))
                if len(waiting) > 1:
                    split[found[0]] = _Split(len(waiting))
            yield waiting.popleft()

    while True:
        for part, result in _call(pool, method, parts(), arguments, what, window):
            for line in pool.drain_events():
                say(line)
            crashed = isinstance(result, WorkerCrash)
            if not crashed and part.shard not in split:
                yield part.shard, ShardResult(result, [])
                continue
            whole = split.setdefault(part.shard, _Split(1))
            if crashed and len(part.units) > 1:
                if is_stopped():
                    continue
                # one crash is narrowed down before the next shard, so that a machine on which nothing works is found out early
                waiting.extendleft(reversed(part.halves()))
                whole.num_open += 1
                say(
                    f"{what}: {part} killed its worker ({result.reason}); it is split in two to find the item that kills workers"
                )
                continue
            if crashed:
                crash = result
                result, names = _quarantine(part, crash, quarantine, what)
                num_before += len(names)
                whole.quarantined += [(name, QUARANTINED) for name in names]
                on_found(part.shard, whole.quarantined)
                if quarantine is not None and num_before > quarantine.max_items:
                    raise _too_many(names[-1], crash, num_before, quarantine.max_items, what)
                say(f"{what}: {_listed(names)} is {QUARANTINED} ({crash.reason}); the run continues without it")
            whole.tables[part.units[0][0]] = result
            whole.num_open -= 1
            if not whole.num_open:
                del split[part.shard]
                tables = [whole.tables[start] for start in sorted(whole.tables)]
                yield part.shard, ShardResult(pa.concat_tables(tables, promote_options="permissive"), whole.quarantined)
        for line in pool.drain_events():
            say(line)
        if is_stopped() or not waiting:
            return


def _parts(
    index: int,
    items: Sequence[Item],
    quarantine: QuarantinePolicy[Item] | None,
    suspects: Sequence[str],
    size: int | None,
    duration: Callable[[Item], float] | None,
) -> list[_Part[Item]]:
    """A shard in parts of `size` units, those with the item of the longest `duration` first; with suspects, each of these alone,
    then what lies between them."""
    units = _units(items, quarantine.unit if quarantine is not None else None)
    if quarantine is None or not suspects:
        size = size or len(units)
        pieces = [units[start : start + size] for start in range(0, len(units), size)]
        if duration is not None:
            pieces.sort(key=lambda piece: max(duration(item) for _, unit in piece for item in unit), reverse=True)
        return [_Part(index, piece, is_whole=len(pieces) == 1) for piece in pieces]
    name, named = quarantine.name, {*suspects}
    alone, between = list[_Part[Item]](), list[_Part[Item]]()
    for is_suspect, run in groupby(units, key=lambda unit: any(name(item) in named for item in unit[1])):
        if is_suspect:
            alone += [_Part(index, [unit], is_suspect=True) for unit in run]
        else:
            between.append(_Part(index, list(run)))
    return [*alone, *between]


def _units(items: Sequence[Item], unit_of: Callable[[Item], str] | None) -> list[tuple[int, Sequence[Item]]]:
    """The items that are asked for together, each with the position of its first one."""
    if unit_of is None:
        return [(place, [item]) for place, item in enumerate(items)]
    units, place = list[tuple[int, Sequence[Item]]](), 0
    for _, group in groupby(items, key=unit_of):
        units.append((place, list(group)))
        place += len(units[-1][1])
    return units


def _quarantine(
    part: _Part[Item], crash: WorkerCrash, quarantine: QuarantinePolicy[Item] | None, what: str
) -> tuple[pa.Table, list[str]]:
    """The rows in the place of the items of a unit that crashed its worker, and their names. Raises BackendError where it
    cannot be quarantined."""
    names = [quarantine.name(item) for item in part.items] if quarantine is not None else [str(part)]
    if quarantine is None or quarantine.rows is None:
        raise BackendError(
            f"{what}: {_listed(names)} killed its worker {crash.num_crashes} times ({crash.reason}), and the stage needs its "
            f"result{crash.worker}",
            f"Committed work is safe. {crash.hint} Fix the cause, then `selfplay resume`.",
        )
    return pa.concat_tables([quarantine.rows(item, QUARANTINED) for item in part.items]), names


def _too_many(name: str, crash: WorkerCrash, num_found: int, max_items: int, what: str) -> TooManyPoisonItems:
    return TooManyPoisonItems(
        f"{what}: {num_found} items have killed their workers twice, the last one {name} ({crash.reason}); "
        f"cluster.max_poison_items is {max_items}{crash.worker}",
        f"Committed work is safe. {crash.hint} So many crashes have a common cause, which the workers' logs show. Fix it, then "
        f"`selfplay resume`; or resume with cluster.max_poison_items={num_found} or more to continue without "
        "them. They are recorded, and the next attempt asks for each of them alone.",
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} with the {len(names) - 1} other responses to its prompt"


def _call(
    pool: Pool,
    method: str,
    parts: Iterable[_Part[Item] | None],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    what: str,
    window: int,
) -> Generator[tuple[_Part[Item], Any]]:
    sent: dict[int, tuple[_Part[Item], list[object] | None]] = {}

    def calls() -> Iterator[Call | None]:
        for key, part in enumerate(parts):
            if part is None:
                yield None
                continue
            given = arguments(part.items)
            sent[key] = (part, requested_rows(given))
            yield Call(key, given, part.max_crashes)

    for key, result in pool.map(method, calls(), window):
        part, rows = sent.pop(key)
        if rows is not None and not isinstance(result, WorkerCrash):
            check_result_rows(f"{what}: {part}", rows, result)
        yield part, result
