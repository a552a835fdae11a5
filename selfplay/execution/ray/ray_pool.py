"""A pool of Ray actors of one role: bounded work in flight, and what becomes of the calls of an actor that dies.

Deaths are bounded in two ways. A call with `max_crashes` that killed so many workers returns a `WorkerCrash`: the caller splits
it, and bounds how often that happens (see execution/quarantine.py). All other deaths (in calls without that number, in
broadcasts, of workers that are just being started) are bounded by `retries` (see ray_workers.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from selfplay.core.errors import BackendError
from selfplay.core.pool import IN_FLIGHT, PAUSE, Call, WorkerCrash
from selfplay.core.timing import part
from selfplay.execution.dispatch import Dispatch
from selfplay.execution.ray.ray_workers import RayWorkers, WorkerDied


class RayPool(RayWorkers):
    """See `Pool`."""

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        """See `Pool.map`, and `Dispatch` for what happens to the calls of a worker that dies."""
        import ray

        self._begin()
        concurrency = self._spec.concurrency
        dispatch = Dispatch(calls, self._replicas, window, concurrent=concurrency > 1)
        # in the order in which they were sent
        running: dict[Any, tuple[int, Call]] = {}

        def submit(index: int) -> bool:
            was_idle = dispatch.is_idle(index)
            call = dispatch.next_for(index)
            if call is None:
                return False
            if was_idle:
                self._heartbeats[index].restart()
            running[self._actors[index].call.remote(method, call.args)] = (index, call)
            return True

        def fill(index: int | None = None) -> None:
            """One worker, or all in turn."""
            waiting = [*range(self._replicas)] if index is None else [index]
            while waiting:
                waiting = [each for each in waiting if submit(each)]

        fill()
        try:
            while running or dispatch.has_more:
                if not running:
                    with part("waiting"):
                        time.sleep(PAUSE)
                    fill()
                    continue
                was_dry = dispatch.is_dry
                places = {reference: index for reference, (index, _) in running.items()}
                done = self._done_of(places, patience=PAUSE if was_dry else math.inf)
                for reference in done:
                    if reference not in running:
                        continue  # of a worker that died
                    index, call = running[reference]
                    try:
                        result = self._result(reference, index)
                    except WorkerDied as died:
                        lost = [(other, theirs) for other, (where, theirs) in running.items() if where == index]
                        for other, _ in lost:
                            del running[other]
                        yield from self._after_death(dispatch, lost, index, died)
                        fill()
                        continue
                    del running[reference]
                    dispatch.done(index, call)
                    self._replaced = 0
                    fill(None if dispatch.has_suspects else index)
                    was_dry = was_dry or dispatch.is_dry
                    yield call.key, result
                if was_dry:
                    fill()
        finally:
            # drops calls that have not begun; a running call continues to its end and its result is dropped
            for reference in running:
                ray.cancel(reference)

    def _after_death(
        self, dispatch: Dispatch, lost: Sequence[tuple[Any, Call]], index: int, died: WorkerDied
    ) -> Iterator[tuple[int, Any]]:
        """The results that the calls of a dead worker have after all, and a WorkerCrash for the one that is given up; then its
        replacement. The death counts towards `retries` unless the call has a `max_crashes` of its own."""
        without_result: list[Call] = []
        for reference, call in lost:
            # of calls that run one after the other, those behind the first without a result had not begun
            if without_result and self._spec.concurrency == 1:
                without_result.append(call)
                continue
            try:
                result = self._result(reference, index)
            except WorkerDied:
                without_result.append(call)
                continue
            self._replaced = 0
            yield call.key, result
        assert without_result, "a dead worker has no call without a result"
        given_up, num_crashes = dispatch.lost(index, without_result)
        if given_up is not None:
            worker = f"\n  the last was {self._name} worker {index}, its log is {self._log_path(index)}{self._log_tail(index)}"
            yield given_up.key, WorkerCrash(str(died), num_crashes, worker, died.hint)
        self._replace(index, died, counts=without_result[0].max_crashes is None)

    @part("loading")
    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """See `Pool.broadcast`. A worker that dies in it is replaced."""
        self._begin()
        self._broadcasts[method] = args
        for heartbeat in self._heartbeats:
            heartbeat.restart()
        references = [actor.call.remote(method, args) for actor in self._actors]
        results = []
        for index, reference in enumerate(references):
            try:
                results.append(self._result(self._wait_for(reference, index), index))
            except WorkerDied as died:
                results.append(self._replace(index, died)[method])
        return results

    def run_streaming(self, method: str, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """See `Pool.run_streaming`. A worker that dies is replaced once (not with `retries: 0`) and the call repeated: the
        worker's progress is in its own scratch folder."""
        self._begin()
        for attempt in range(2):
            try:
                yield from self._stream(method, args, meanwhile)
                return
            except WorkerDied as died:
                if attempt or not self._retries:
                    times = "died twice, the last time" if attempt else "died"
                    raise BackendError(
                        f"the {self._name} {times} ({died}){self._log_tail(0)}",
                        f"Committed work is safe. Its log is {self._log_path(0)}. "
                        "`selfplay resume` continues from its last checkpoint.",
                    ) from None
                self._replace(0, died)

    def _stream(self, method: str, args: tuple[Any, ...], meanwhile: Callable[[], None]) -> Iterator[Any]:
        self._heartbeats[0].restart()
        generator = self._actors[0].stream.options(num_returns="streaming").remote(method, args)
        while True:
            self._done_of({generator: 0}, meanwhile)
            try:
                reference = next(generator)
            except StopIteration:
                return
            yield self._result(reference, 0)
