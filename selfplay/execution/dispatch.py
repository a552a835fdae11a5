"""Which worker gets which call: every worker's window is kept full, and calls that were lost with a worker are asked again alone.

Pure bookkeeping, without workers or time: the Ray pool drives it with its actors, tests and benchmarks with simulated ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from selfplay.core.pool import Call


class Dispatch:
    """Hands out `calls` in order to `num_workers` workers, at most `window` at a time to each. `concurrent`: a worker runs all
    the calls that it holds at once; otherwise one after the other, in the order in which they were sent.

    Calls that were lost with a worker are suspects. Its replacement runs them one at a time, so that the one which kills it is
    known for certain; the other workers continue with the queue, and help with the suspects when it is empty.
    """

    def __init__(self, calls: Iterable[Call], num_workers: int, window: int, *, concurrent: bool) -> None:
        self._queue = iter(calls)
        self._window, self._concurrent = window, concurrent
        self._held: list[dict[int, Call]] = [{} for _ in range(num_workers)]
        self._suspects: list[deque[Call]] = [deque() for _ in range(num_workers)]
        self._num_crashes: dict[int, int] = {}
        self._lost_before: set[int] = set()

    def next_for(self, worker: int) -> Call | None:
        """The next call for a worker; None while it should get none."""
        held, suspects = self._held[worker], self._suspects[worker]
        if len(held) >= self._window or (held and (suspects or not self._lost_before.isdisjoint(held))):
            return None
        call = suspects.popleft() if suspects else next(self._queue, None)
        if call is None and not held:
            call = next((others.popleft() for others in self._suspects if others), None)
        if call is not None:
            held[call.key] = call
        return call

    @property
    def has_suspects(self) -> bool:
        """Whether a call that was lost waits to be asked again: any idle worker may take it."""
        return any(self._suspects)

    def is_idle(self, worker: int) -> bool:
        """Whether a worker holds no call."""
        return not self._held[worker]

    def done(self, worker: int, call: Call) -> None:
        """A worker has returned the result of a call."""
        del self._held[worker][call.key]

    def lost(self, worker: int, calls: Sequence[Call]) -> tuple[Call | None, int]:
        """A worker died with these calls, in the order in which they were sent, without a result. Returns the call that it
        certainly died in if that one is given up, else None; and how many workers that call has killed."""
        self._held[worker].clear()
        self._lost_before.update(call.key for call in calls)
        # one after the other: those behind the first had not begun
        begun = list(calls) if self._concurrent else list(calls[:1])
        self._suspects[worker].extend(call for call in calls if call not in begun)
        for call in begun:
            self._num_crashes[call.key] = self._num_crashes.get(call.key, 0) + 1
        if len(begun) == 1:
            (blamed,) = begun
            if blamed.max_crashes is not None and self._num_crashes[blamed.key] >= blamed.max_crashes:
                return blamed, self._num_crashes[blamed.key]
        self._suspects[worker].extend(begun)
        return None, 0
