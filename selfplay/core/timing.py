"""Where the time of a stage goes: the parts that its thread in the driver and its workers spend.

A stage works on one thread, and a worker's call on another. `collecting()` begins the record of a thread; `part("writing")` adds
to it, and does nothing on a thread without a record. A worker sends the record of a call with its result, and the pool adds it
to the record of the stage that asked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

# waiting     for something to do or for a result
# loading     Ray, libraries, models, weights
# computing   everything else
# writing     shards, a policy
# committing  what makes a stage final: a policy moved into its place and hashed
Part = Literal["waiting", "loading", "computing", "writing", "committing"]
PARTS: tuple[Part, ...] = get_args(Part)

DRIVER = "driver"
# Spans of one part that follow each other after less than this many seconds are kept as one in the driver's record.
_GAP = 0.01


@dataclass(frozen=True, slots=True)
class Span:
    """`who` spent the time from `begin` to `end` (Unix seconds) on `part`. Spans of a worker may contain others."""

    who: str
    part: Part
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class PartSeconds:
    """Seconds of each part; together those of the stage."""

    waiting: float = 0.0
    loading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    committing: float = 0.0


@dataclass(frozen=True, slots=True)
class Timed:
    """The result of a worker's call, and the spans that were spent on it."""

    value: Any
    spans: tuple[Span, ...]


class Record:
    """The record of one thread. `on_loading` is called with what is loaded as it begins (seconds None) and when it has ended."""

    def __init__(self, on_loading: Callable[[str, float | None], None] = lambda what, seconds: None) -> None:
        self.on_loading = on_loading
        self.began = time.time()
        self._seconds: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._own: list[Span] = []
        self._workers: dict[str, list[Span]] = {}
        self._open: list[Part] = []
        # seconds of parts inside the open one
        self._inner = 0.0

    @contextlib.contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """What happens inside belongs to `name`, except for parts of its own. A wait for something that loads is loading."""
        if name == "waiting" and "loading" in self._open:
            yield
            return
        self._open.append(name)
        before, self._inner = self._inner, 0.0
        begin, started = time.time(), time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds[name] += seconds - self._inner
            self._inner = before + seconds
            self._open.pop()
            last = self._own[-1] if self._own else None
            if last is not None and last.part == name and begin - last.end < _GAP:
                self._own[-1] = Span(DRIVER, name, min(last.begin, begin), begin + seconds)
            else:
                self._own.append(Span(DRIVER, name, begin, begin + seconds))

    def add(self, who: str, spans: Iterable[Span]) -> None:
        """The spans of a worker, which it recorded without its name. Calls may overlap, and end in any order."""
        kept = self._workers.setdefault(who, [])
        for span in spans:
            begin, end, others = span.begin, span.end, []
            while kept and kept[-1].end >= begin:
                last = kept.pop()
                if last.part == span.part:
                    begin, end = min(begin, last.begin), max(end, last.end)
                else:
                    others.append(last)
            kept += sorted([*others, Span(who, span.part, begin, end)], key=lambda each: each.end)

    def include(self, other: Record, who: str) -> None:
        """What another thread did for this one: the spans of its workers; its own are those of `who`."""
        self.add(who, other._own)
        for worker, spans in other._workers.items():
            self.add(worker, spans)

    def spans(self) -> list[Span]:
        """All spans, those of the thread itself first."""
        return [*self._own, *(span for spans in self._workers.values() for span in spans)]

    def seconds(self) -> dict[str, PartSeconds]:
        """The seconds until now by who spent them: "driver" is the thread itself, which computes when it does nothing else; a
        worker waits when it does nothing else."""
        now = time.time()
        total = now - self.began
        own = dict(self._seconds)
        own["computing"] += max(total - sum(own.values()), 0.0)
        found = {DRIVER: own}
        for who, spans in sorted(self._workers.items()):
            inside = [(each.part, max(each.begin, self.began), min(each.end, now)) for each in spans]
            found[who] = _exclusive([each for each in inside if each[1] < each[2]])
            found[who]["waiting"] += max(total - sum(found[who].values()), 0.0)
        return {
            who: PartSeconds(**{name: round(seconds, 3) for name, seconds in parts.items()})
            for who, parts in found.items()
        }


def _exclusive(spans: list[tuple[Part, float, float]]) -> dict[Part, float]:
    """Seconds of each part. Time that belongs to several counts for the most special one: loading inside a call is loading."""
    found: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    covered, so_far = 0.0, list[tuple[float, float]]()
    for part in ("committing", "writing", "loading", "computing", "waiting"):
        so_far += [(begin, end) for name, begin, end in spans if name == part]
        union = _length(so_far)
        found[part], covered = union - covered, union
    return found


def _length(intervals: list[tuple[float, float]]) -> float:
    """The length of the union."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(intervals):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


_record: ContextVar[Record | None] = ContextVar("record", default=None)


def collecting(on_loading: Callable[[str, float | None], None] = lambda what, seconds: None) -> Record:
    """Begin a new record of this thread; the one before it ends."""
    record = Record(on_loading)
    _record.set(record)
    return record


def record() -> Record | None:
    """The record of this thread."""
    return _record.get()


@contextlib.contextmanager
def part(name: Part) -> Iterator[None]:
    """What happens inside belongs to `name` in the record of this thread. Also a decorator."""
    current = _record.get()
    if current is None:
        yield
    else:
        with current.part(name):
            yield


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """As `part("loading")`, and `status` and the viewer show what is loaded."""
    current = _record.get()
    if current is None:
        yield
        return
    started = time.perf_counter()
    current.on_loading(what, None)
    with current.part("loading"):
        yield
    current.on_loading(what, time.perf_counter() - started)


def unwrap(result: Any, who: str) -> Any:
    """The value of a worker's result; its spans go to the record of this thread."""
    if not isinstance(result, Timed):
        return result
    current = _record.get()
    if current is not None:
        current.add(who, result.spans)
    return result.value
