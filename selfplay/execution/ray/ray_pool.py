"""A pool of Ray actors of one role: bounded work in flight, actors that die or hang replaced, errors that name the worker.

How long a call may take depends on models, lengths and machine, so no call has a deadline. What has one is a call without a
sign of progress (`cluster.call_timeout`; see heartbeat.py): such a worker is ended and counts as one that died.

Deaths are bounded in two ways. A pool replaces at most `retries` workers in a row without a result in between, further deaths of
the same call aside; and a call that its worker did not survive comes back as `Killed` once it has cost as many as it was given
patience, for the caller to halve.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.core.errors import BackendError, SelfplayError, WorkerLostError
from selfplay.core.pool import BackendSpec, Call, Killed
from selfplay.execution.ray.hang_detection import Pulse, end_process, where_it_crashed, where_it_hung

# A worker has one call running and one waiting, so that it never idles between two.
IN_FLIGHT = 2
# Seconds between two looks at Ray and at the workers' signs of progress.
LOOK_EVERY = 1.0
# Of a worker's log, which may be of any size, and of a line in it: what is looked at for its last words.
_TAIL_BYTES, _LINE_CHARACTERS = 1 << 18, 300


class RayPool:
    """See `Pool`. Actors are started by `start()`, stay alive across rounds, and are replaced at most `retries` times
    in one `map` or `everyone` without a result in between."""

    def __init__(
        self,
        *,
        name: str,
        spec: BackendSpec,
        replicas: int,
        demand: Mapping[str, float],
        env: Mapping[str, str],
        log_folder: Path,
        retries: int,
        start_timeout: float,
        call_timeout: float = 0.0,
        check_ray: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._spec = spec
        self._replicas = replicas
        self._demand = dict(demand)
        self._env = dict(env)
        self._log_folder = log_folder
        self._retries = retries
        self._start_timeout = start_timeout
        self._call_timeout = call_timeout
        # raises where Ray itself has died, which workers that cannot be replaced do not tell
        self._check_ray = check_ray or (lambda: None)
        self._actors: list[Any] = []
        self._pulses: list[Pulse] = []
        # process id and Ray node of each worker, and why one was ended by us
        self._processes: dict[int, tuple[int, str]] = {}
        self._ended: dict[int, str] = {}
        # bytes of the log that were there before the worker: the words of those before it are not its own
        self._log_start: dict[int, int] = {}
        self._ready = False
        self._replaced = 0
        self._news: list[str] = []
        # what every worker was told last, by method: a replacement is told the same
        self._told: dict[str, tuple[Any, ...]] = {}

    def start(self) -> None:
        """Create the actors; `_wait_ready` waits for them at the first call."""
        if not self._actors:
            self._pulses = [Pulse(self._log_path(index).with_suffix(".beat")) for index in range(self._replicas)]
            self._actors = [self._create(index) for index in range(self._replicas)]

    def _log_path(self, index: int) -> Path:
        return self._log_folder / f"{self._name}-{index}.log"

    def _create(self, index: int) -> Any:
        import ray

        from selfplay.execution.ray.worker import Worker

        custom = {name: amount for name, amount in self._demand.items() if name not in ("CPU", "GPU")}
        remote = ray.remote(Worker).options(
            num_cpus=self._demand.get("CPU", 0),
            num_gpus=self._demand.get("GPU", 0),
            resources=custom,
            runtime_env={"env_vars": self._env},
            max_restarts=0,
            name=None,
        )
        self._ended.pop(index, None)
        path = self._log_path(index)
        self._log_start[index] = path.stat().st_size if path.is_file() else 0
        return remote.remote(self._spec, str(self._log_path(index)), str(self._pulses[index].path), self._call_timeout)

    def _begin(self) -> None:
        """Before `map`, `everyone` and `stream`: the actors are there, and replacements are counted anew."""
        self.start()
        if not self._ready:
            self._await_start(range(self._replicas))
            self._ready = True
        self._replaced = 0

    def _await_start(self, indices: Sequence[int]) -> None:
        """Wait until these workers have made their backends. Raises what the making raised, or BackendError."""
        import ray

        waiting = {self._actors[index].ready.remote(): index for index in indices}
        deadline = time.monotonic() + self._start_timeout
        done: list[Any] = []
        late = list(waiting)
        while late and (left := deadline - time.monotonic()) > 0:
            self._check_ray()
            done, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=min(left, LOOK_EVERY))
        for reference in done:
            index = waiting[reference]
            try:
                self._processes[index] = self._result(reference, index)
            except _WorkerDied as died:
                raise BackendError(
                    f"{self._name} worker {index} died while it started ({died}){self._last_words(index)}",
                    f"Its log is {self._log_path(index)}; `selfplay doctor` checks the environment.",
                ) from None
        if late:
            names = ", ".join(f"{self._name} {waiting[reference]}" for reference in late)
            raise BackendError(
                f"not started within {self._start_timeout:g} s: {names}{self._last_words(waiting[late[0]])}",
                f"See {self._log_path(waiting[late[0]])}; raise cluster.start_timeout if the machine is only slow. "
                "Where others share the cluster, its devices may be taken: `ray status` says.",
            )

    # ------------------------------------------------------------------ waiting, and workers that hang

    def _next_of(self, running: Mapping[Any, int], meanwhile: Callable[[], None] = lambda: None) -> Any:
        """The next of these references (of workers, by index) that is done. A worker without a sign of progress is ended
        while they are waited for; its references then fail."""
        import ray

        interval = max(0.05, min(LOOK_EVERY, self._call_timeout / 10)) if self._call_timeout else LOOK_EVERY
        while True:
            self._check_ray()
            done, _ = ray.wait(list(running), num_returns=1, timeout=interval)
            if done:
                return done[0]
            meanwhile()
            for index in {*running.values()} - self._ended.keys() if self._call_timeout else ():
                if self._pulses[index].idle() > self._call_timeout:
                    self._end(index, f"no progress for {self._call_timeout:g} s, so it was ended")

    def _end(self, index: int, why: str) -> None:
        """End a worker, whatever it is doing; what was asked of it fails with this reason."""
        import ray

        self._ended[index] = why
        ray.kill(self._actors[index])
        process, node = self._processes[index]
        if node == ray.get_runtime_context().get_node_id():
            end_process(process)

    def _result(self, reference: Any, index: int) -> Any:
        """ray.get with our own errors instead of Ray's wrappers; a dead actor raises _WorkerDied."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, WorkerLostError):
                self._end(index, cause.message)
                raise _WorkerDied(cause.message) from None
            if isinstance(cause, BackendError):
                hint = cause.hint or f"The whole traceback is in {self._log_path(index)}"
                raise type(cause)(f"{self._name} worker {index}: {cause.message}", hint) from None
            if isinstance(cause, SelfplayError):
                raise cause from None
            raise BackendError(f"{self._name} worker {index}: {cause}", f"See {self._log_path(index)}") from None
        except ray.exceptions.RayError as error:
            raise _WorkerDied(self._ended.get(index, _how_it_died(error))) from None

    def _last_words(self, index: int, lines: int = 5) -> str:
        path = self._log_path(index)
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(self._log_start.get(index, 0), path.stat().st_size - _TAIL_BYTES))
            log = file.read().decode("utf-8", errors="replace").strip()
        frames = where_it_hung(log, lines) if index in self._ended else []
        if frames:
            return "\n  it was here, innermost first:\n    " + "\n    ".join(frames)
        if crashed := where_it_crashed(log, lines):
            return f"\n  it crashed ({crashed[0]}), innermost first:\n    " + "\n    ".join(crashed[1:])
        tail = [line[:_LINE_CHARACTERS] for line in log.splitlines()[-lines:]]
        return ("\n  its last words:\n    " + "\n    ".join(tail)) if tail else ""

    def _replace(self, index: int, died: _WorkerDied, *, counts: bool = True) -> dict[str, Any]:
        """An actor in the place of one that died, told all that everyone was told; returns its answers by method. Unless the
        death `counts`, it is none of those in a row: two bad calls in turn are not a machine on which nothing works."""
        while True:
            self._check_ray()
            self._replaced += counts
            counts = True
            if self._replaced > self._retries:
                raise BackendError(
                    f"{self._name} worker {index} died ({died}); {self._name} workers died {self._replaced} times "
                    f"in this stage without a result in between, cluster.retries is {self._retries}"
                    f"{self._last_words(index)}",
                    f"Committed work is safe. Its log is {self._log_path(index)}; out of memory is the usual reason. "
                    "Mend the cause, then `selfplay resume`.",
                )
            self._news.append(f"{self._name} worker {index} died ({died}) and is replaced; see {self._log_path(index)}")
            self._actors[index] = self._create(index)
            self._await_start([index])
            try:
                return {
                    method: self._ask(index, method, args) for method, args in self._told.items()
                }  # in the order in which they were told
            except _WorkerDied as again:
                died = again

    def _ask(self, index: int, method: str, args: tuple[Any, ...]) -> Any:
        self._pulses[index].restart()
        reference = self._actors[index].call.remote(method, args)
        return self._result(self._next_of({reference: index}), index)

    def news(self) -> list[str]:
        """See `Pool.news`."""
        told, self._news = self._news, []
        return told

    # ------------------------------------------------------------------ work

    def map(self, method: str, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """See `Pool.map`. A call whose worker died is run again on the replacement, until its patience is over; and alone, for
        of two calls that were lost together it is not certain which one the worker died in: a quick answer may have been on its
        way."""
        import ray

        self._begin()
        queue = iter(calls)
        again: deque[Call] = deque()
        # in the order in which they were sent
        running: dict[Any, tuple[int, Call]] = {}
        deaths: dict[int, int] = {}
        lost_before: set[int] = set()

        def submit(index: int) -> None:
            busy = [call for where, call in running.values() if where == index]
            if len(busy) == IN_FLIGHT or (busy and (again or busy[0].key in lost_before)):
                return
            call = again.popleft() if again else next(queue, None)
            if call is not None:
                if not busy:
                    self._pulses[index].restart()
                running[self._actors[index].call.remote(method, call.args)] = (index, call)

        for _ in range(IN_FLIGHT):
            for index in range(self._replicas):
                submit(index)
        try:
            while running:
                reference = self._next_of({reference: index for reference, (index, _) in running.items()})
                index, call = running[reference]
                try:
                    result = self._result(reference, index)
                except _WorkerDied as died:
                    lost = [(other, theirs) for other, (where, theirs) in running.items() if where == index]
                    for other, theirs in lost:
                        del running[other]
                        lost_before.add(theirs.key)
                    is_first = yield from self._after_death(lost, index, died, deaths, again)
                    self._replace(index, died, counts=is_first)
                    for _ in range(IN_FLIGHT):
                        submit(index)
                    continue
                del running[reference]
                self._replaced = 0
                for _ in range(IN_FLIGHT):
                    submit(index)
                yield call.key, result
        finally:
            # drops what has not begun; a call under way runs to its end and its result is dropped
            for reference in running:
                ray.cancel(reference)

    def _after_death(
        self,
        lost: Sequence[tuple[Any, Call]],
        index: int,
        died: _WorkerDied,
        deaths: dict[int, int],
        again: deque[Call],
    ) -> Generator[tuple[int, Any], None, bool]:
        """Sort what a dead worker had been asked, in the order in which it was: results that had come, the one call that it
        died in (asked again last, or given up), and those that had not begun. Returns False where that call had ended a worker
        before and has a patience, which bounds how often it may."""
        blamed: Call | None = None
        for reference, call in lost:
            if blamed is not None:
                again.append(call)
                continue
            try:
                result = self._result(reference, index)
            except _WorkerDied:
                blamed = call
                continue
            self._replaced = 0
            yield call.key, result
        assert blamed is not None, "a worker died in none of its calls"
        deaths[blamed.key] = deaths.get(blamed.key, 0) + 1
        if blamed.patience is None or deaths[blamed.key] < blamed.patience:
            again.append(blamed)
        else:
            worker = f"\n  the last was {self._name} worker {index}, its log {self._log_path(index)}{self._last_words(index)}"
            yield blamed.key, Killed(str(died), deaths[blamed.key], worker)
        return blamed.patience is None or deaths[blamed.key] == 1

    def everyone(self, method: str, *args: Any) -> list[Any]:
        """See `Pool.everyone`. A worker that dies in it is replaced."""
        self._begin()
        self._told[method] = args
        for pulse in self._pulses:
            pulse.restart()
        references = [actor.call.remote(method, args) for actor in self._actors]
        results = []
        for index, reference in enumerate(references):
            try:
                results.append(self._result(self._next_of({reference: index}), index))
            except _WorkerDied as died:
                results.append(self._replace(index, died)[method])
        return results

    def stream(self, method: str, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """See `Pool.stream`. A worker that dies in it is replaced once (not with `retries: 0`) and asked again: what it had
        done is in its own scratch."""
        self._begin()
        for attempt in range(2):
            try:
                yield from self._stream(method, args, meanwhile)
                return
            except _WorkerDied as died:
                if attempt or not self._retries:
                    times = "died twice, the last time" if attempt else "died"
                    raise BackendError(
                        f"the {self._name} {times} ({died}){self._last_words(0)}",
                        f"Committed work is safe. Its log is {self._log_path(0)}. "
                        "`selfplay resume` goes on from its last checkpoint.",
                    ) from None
                self._replace(0, died)

    def _stream(self, method: str, args: tuple[Any, ...], meanwhile: Callable[[], None]) -> Iterator[Any]:
        self._pulses[0].restart()
        generator = self._actors[0].stream.options(num_returns="streaming").remote(method, args)
        while True:
            self._next_of({generator: 0}, meanwhile)
            try:
                reference = next(generator)
            except StopIteration:
                return
            yield self._result(reference, 0)

    def heal(self) -> None:
        """Replace workers that died since the last call: before another run uses the pool."""
        if not self._ready:
            return
        self._replaced = 0
        for index, actor in enumerate(self._actors):
            self._pulses[index].restart()
            try:
                self._result(self._next_of({actor.ready.remote(): index}), index)
            except _WorkerDied as died:
                self._replace(index, died)

    def close(self) -> None:
        """End the actors now, whatever they are doing."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._ready = [], False


def _how_it_died(error: Exception) -> str:
    """What Ray says of a death in one line. Of a process that is suddenly gone it knows no more than that."""
    text = str(error).strip() or type(error).__name__
    detail = text.partition("Worker exit detail: ")[2]
    known = [] if "connection error" in detail else detail.splitlines()[:1]
    return " ".join([text.splitlines()[0], *known])


class _WorkerDied(Exception):
    """Inside this module only: the process behind an actor is gone."""
