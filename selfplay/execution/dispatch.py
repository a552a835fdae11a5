"""Assigns calls to workers: every worker's window is kept full, and calls that were lost with a worker are asked again alone.

Pure bookkeeping, without workers or time: the Ray pool drives it with its actors, tests and benchmarks with simulated ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from selfplay.core.pool import Call


class Dispatch:
    """Hands out `calls` in order (None among them: there is no further one yet) to `num_workers` workers, at most `window` at a
    time to each. `concurrent`: a worker runs all the calls that it holds at once; otherwise one after the other, in the order in
    which they were sent.

    Calls that were lost with a worker are suspects. Its replacement runs them in small groups, and those of a group that was
    lost again one at a time, so that the one which kills it is known for certain; the other workers continue with the queue, and
    help with the suspects when it is empty.
    """

    def __init__(self, calls: Iterable[Call | None], num_workers: int, window: int, *, concurrent: bool) -> None:
        self._queue = iter(calls)
        self._has_more, self._is_dry = True, False
        self._window, self._concurrent = window, concurrent
        self._held: list[dict[int, Call]] = [{} for _ in range(num_workers)]
        # groups of suspects by the worker that lost them; what is left of the group that a worker runs now
        self._suspects: list[deque[deque[Call]]] = [deque() for _ in range(num_workers)]
        self._group: list[deque[Call] | None] = [None] * num_workers
        self._num_crashes: dict[int, int] = {}

    @property
    def has_suspects(self) -> bool:
        """Whether calls that were lost wait to be asked again: any idle worker may take them."""
        return any(self._suspects)

    @property
    def has_more(self) -> bool:
        """Whether the queue may still have a call."""
        return self._has_more

    @property
    def is_dry(self) -> bool:
        """Whether the queue had no further call yet when it was last asked: ask again after a pause."""
        return self._is_dry

    def is_idle(self, worker: int) -> bool:
        """Whether a worker holds no call."""
        return not self._held[worker]

    def next_for(self, worker: int) -> Call | None:
        """The next call for a worker; None while it should get none."""
        held = self._held[worker]
        if len(held) >= self._window:
            return None
        group, suspects = self._group[worker], self._suspects[worker]
        if held and (group is not None or suspects):
            call = group.popleft() if group else None
        elif suspects:
            call = self._begin(worker, suspects)
        else:
            self._group[worker] = None
            call = self._from_queue()
            if call is None and not held and (others := next(filter(None, self._suspects), None)):
                call = self._begin(worker, others)
        if call is not None:
            held[call.key] = call
        return call

    def _from_queue(self) -> Call | None:
        try:
            call = next(self._queue)
        except StopIteration:
            self._has_more, call = False, None
        self._is_dry = call is None and self._has_more
        return call

    def _begin(self, worker: int, groups: deque[deque[Call]]) -> Call:
        group = self._group[worker] = groups.popleft()
        return group.popleft()

    def done(self, worker: int, call: Call) -> None:
        """A worker has returned the result of a call."""
        del self._held[worker][call.key]

    def lost(self, worker: int, calls: Sequence[Call]) -> tuple[Call | None, int]:
        """A worker died with these calls, in the order in which they were sent, without a result. Returns the call that it
        certainly died in if that one is given up, else None; and how many workers died with that call."""
        self._held[worker].clear()
        group, self._group[worker] = self._group[worker], None
        # one after the other: those behind the first had not begun
        begun = list(calls) if self._concurrent else list(calls[:1])
        rest = [call for call in calls if call not in begun]
        for call in begun:
            self._num_crashes[call.key] = self._num_crashes.get(call.key, 0) + 1
        if len(begun) == 1:
            blamed, num_crashes = begun[0], self._num_crashes[begun[0].key]
            if blamed.max_crashes is not None and num_crashes >= blamed.max_crashes:
                self._suspect(worker, [*rest, *(group or ())], size=1)
                return blamed, num_crashes
        # of a few dozen calls that run at once, groups find the one that kills with few deaths and little idling
        size = math.isqrt(len(begun)) if group is None else 1
        self._suspect(worker, [*rest, *begun, *(group or ())], size)
        return None, 0

    def _suspect(self, worker: int, calls: list[Call], size: int) -> None:
        size = size if self._concurrent else 1
        self._suspects[worker].extend(deque(calls[start : start + size]) for start in range(0, len(calls), size))
