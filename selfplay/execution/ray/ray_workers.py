"""The actors of a pool: started, waited for, watched, replaced when they die or hang; errors name the worker.

The duration of a call depends on models, lengths and machine, so a call has no deadline. A call without progress has one
(`cluster.heartbeat_timeout`; see heartbeat.py): its worker is killed and counts as dead. Deaths are bounded by `retries`: so many
workers in a row are replaced without a result in between. For those of a call with a bound of its own see ray_pool.py.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.core.errors import BackendError, SelfplayError, WorkerLostError
from selfplay.core.machine import DeviceFacts
from selfplay.core.pool import BackendSpec
from selfplay.core.timing import loading, part, unwrap
from selfplay.execution.ray.exit_status import ExitWatch
from selfplay.execution.ray.hang_detection import HeartbeatMonitor, kill_process_tree
from selfplay.execution.ray.private_api import death_reason
from selfplay.execution.ray.worker import Worker, WorkerInfo
from selfplay.execution.ray.worker_log import log_tail

# Seconds between two checks of Ray and of the workers' heartbeats.
POLL_INTERVAL = 1.0


class WorkerDied(Exception):
    """The process behind an actor is gone; `hint` says what usually ends one like that."""

    def __init__(self, reason: str, hint: str = "Its log may show why.") -> None:
        super().__init__(reason)
        self.hint = hint


def new_worker(spec: BackendSpec, demand: Mapping[str, float], env: Mapping[str, str]) -> Any:
    """An actor of `Worker`, without a backend: of `spec` it has the concurrency, and the secrets or not."""
    import ray

    custom = {name: amount for name, amount in demand.items() if name not in ("CPU", "GPU")}
    remote = ray.remote(Worker).options(
        num_cpus=demand.get("CPU", 0),
        num_gpus=demand.get("GPU", 0),
        resources=custom,
        max_restarts=0,
        max_concurrency=spec.concurrency,
        name=None,
    )
    return remote.remote(dict(env), spec.secrets)


class RayWorkers:
    """The actors of one role, by index. `start()` creates them. They stay alive across rounds, and are replaced at most `retries`
    times in one `map` or `broadcast` without a result in between."""

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
        heartbeat_timeout: float = 0.0,
        check_ray: Callable[[], None] | None = None,
        lacking: Callable[[], str] | None = None,
        spare: Sequence[Any] = (),
    ) -> None:
        self._name = name
        self._spec = spec
        self._replicas = replicas
        self._demand = dict(demand)
        self._env = dict(env)
        self._log_folder = log_folder
        self._retries = retries
        self._start_timeout = start_timeout
        self._heartbeat_timeout = heartbeat_timeout
        # raises if Ray itself has died: workers that cannot be replaced do not report that
        self._check_ray = check_ray or (lambda: None)
        # what the machine of the workers lacks, in words that follow the message that one did not start
        self._lacking = lacking or (lambda: "")
        # workers that wait for a backend (see early_start.py)
        self._spare = list(spare)
        self._actors: list[Any] = []
        # what `Worker.build` of each has said or will say
        self._built: dict[int, Any] = {}
        self._heartbeats: list[HeartbeatMonitor] = []
        # what each worker reported when it started, and why this pool killed one
        self._workers: dict[int, WorkerInfo] = {}
        self._killed: dict[int, str] = {}
        self._exits = [ExitWatch() for _ in range(replicas)]
        # size of the log when the worker started: what is before that was written by earlier workers
        self._log_start: dict[int, int] = {}
        self._ready = False
        self._starting = threading.Lock()
        self._creating = threading.Lock()
        self._replaced = 0
        self._events: list[str] = []
        # arguments of the last broadcast, by method: they are repeated on a replacement
        self._broadcasts: dict[str, tuple[Any, ...]] = {}

    def start(self) -> None:
        """Create the actors; `_await_start` waits for them at the first call."""
        # a shard of one stage starts all pools, while another stage may begin with this one
        with self._creating:
            if not self._actors:
                self._heartbeats = [
                    HeartbeatMonitor(self._log_path(index).with_suffix(".beat")) for index in range(self._replicas)
                ]
                self._actors = [self._create(index) for index in range(self._replicas)]

    def _log_path(self, index: int) -> Path:
        return self._log_folder / f"{self._name}-{index}.log"

    def _create(self, index: int) -> Any:
        actor = self._spare.pop() if self._spare else new_worker(self._spec, self._demand, self._env)
        self._killed.pop(index, None)
        self._exits[index].close()
        path = self._log_path(index)
        self._log_start[index] = path.stat().st_size if path.is_file() else 0
        self._built[index] = actor.build.remote(
            self._spec, str(path), str(self._heartbeats[index].path), self._heartbeat_timeout
        )
        return actor

    def devices(self) -> list[DeviceFacts]:
        """See `Pool.devices`."""
        self._begin()
        return [self._workers[index].device for index in range(self._replicas)]

    def _begin(self) -> None:
        """Before `map`, `broadcast` and `run_streaming`: wait for the actors, and reset the count of replacements."""
        # a stage may look at the devices of workers that another one, side by side with it, is about to call
        with self._starting:
            self.start()
            if not self._ready:
                with loading(self._name):
                    self._await_start(range(self._replicas))
                self._ready = True
        self._replaced = 0

    def _await_start(self, indices: Sequence[int]) -> None:
        """Wait until these workers have created their backends. Raises what the constructor raised, or BackendError."""
        import ray

        waiting = {self._built[index]: index for index in indices}
        deadline = time.monotonic() + self._start_timeout
        done: list[Any] = []
        late = list(waiting)
        while late and (left := deadline - time.monotonic()) > 0:
            self._check_ray()
            done, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=min(left, POLL_INTERVAL))
        for reference in done:
            index = waiting[reference]
            try:
                self._workers[index] = self._result(reference, index)
                if self._is_here(index):
                    self._exits[index].watch(self._workers[index].pid)
            except WorkerDied as died:
                raise BackendError(
                    f"{self._name} worker {index} died while it started ({died}){self._log_tail(index)}{self._lacking()}",
                    f"Its log is {self._log_path(index)}; `selfplay doctor` checks the environment.",
                ) from None
            except BackendError as error:
                error.message += self._lacking()
                raise
        if late:
            names = ", ".join(f"{self._name} {waiting[reference]}" for reference in late)
            raise BackendError(
                f"not started within {self._start_timeout:g} s: {names}{self._log_tail(waiting[late[0]])}{self._lacking()}",
                f"See {self._log_path(waiting[late[0]])}; raise cluster.start_timeout if the machine is slow. "
                "On a shared cluster the devices may be in use: see `ray status`.",
            )

    # ------------------------------------------------------------------ waiting, and hung workers

    @part("waiting")
    def _done_of(
        self,
        running: Mapping[Any, int],
        meanwhile: Callable[[], None] = lambda: None,
        patience: float = math.inf,
    ) -> list[Any]:
        """Those of these references (reference -> worker index) that are done, at least one unless `patience` seconds pass. A
        worker without a heartbeat is killed during the wait; its references then fail."""
        import ray

        interval = max(0.05, min(POLL_INTERVAL, (self._heartbeat_timeout or 10 * POLL_INTERVAL) / 10))
        references = list(running)
        while True:
            self._check_ray()
            if not self._actors:
                raise BackendError(f"the {self._name} workers were stopped", "`selfplay resume` continues.")
            done, others = ray.wait(references, num_returns=1, timeout=min(interval, patience))
            if done:
                # all at once: a wait looks at every reference, so that one for each result would cost the square of them
                return [*done, *(ray.wait(others, num_returns=len(others), timeout=0)[0] if others else ())]
            meanwhile()
            for index in {*running.values()} - self._killed.keys() if self._heartbeat_timeout else ():
                if self._heartbeats[index].idle() > self._heartbeat_timeout:
                    self._kill(index, f"no progress for {self._heartbeat_timeout:g} s, so it was killed")
            if patience <= interval:
                return []

    def _wait_for(self, reference: Any, index: int) -> Any:
        """The reference, once it is done."""
        return self._done_of({reference: index})[0]

    def _is_here(self, index: int) -> bool:
        """Whether a worker is on the driver's node."""
        import ray

        return self._workers[index].node_id == str(ray.get_runtime_context().get_node_id())

    def _kill(self, index: int, why: str) -> None:
        """Kill a worker; its calls fail with this reason."""
        import ray

        self._killed[index] = why
        ray.kill(self._actors[index])
        if self._is_here(index):
            kill_process_tree(self._workers[index].pid)

    def _result(self, reference: Any, index: int) -> Any:
        """ray.get with selfplay's errors instead of Ray's wrappers; a dead actor raises WorkerDied."""
        import ray

        try:
            return unwrap(ray.get(reference), f"{self._name}-{index}")
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, WorkerLostError):
                self._kill(index, cause.message)
                raise WorkerDied(cause.message) from None
            if isinstance(cause, BackendError):
                hint = cause.hint or f"The full traceback is in {self._log_path(index)}"
                raise type(cause)(f"{self._name} worker {index}: {cause.message}", hint) from None
            if isinstance(cause, SelfplayError):
                raise cause from None
            raise BackendError(f"{self._name} worker {index}: {cause}", f"See {self._log_path(index)}") from None
        except ray.exceptions.RayError as error:
            if index in self._killed:
                raise WorkerDied(self._killed[index]) from None
            raise WorkerDied(death_reason(error) + self._exits[index].described(), self._exits[index].hint()) from None

    def _log_tail(self, index: int) -> str:
        return log_tail(self._log_path(index), self._log_start.get(index, 0), is_hung=index in self._killed)

    def _replace(self, index: int, died: WorkerDied, *, counts: bool = True) -> dict[str, Any]:
        """Replace a dead actor and repeat the broadcasts on the new one; returns its results by method. A death that does not
        `count` is left out of the number in a row: the bound of its call is the caller's."""
        while True:
            self._check_ray()
            self._replaced += counts
            counts = True
            if self._replaced > self._retries:
                raise BackendError(
                    f"{self._name} worker {index} died ({died}); {self._name} workers died {self._replaced} times "
                    f"in this stage without a result in between, cluster.retries is {self._retries}"
                    f"{self._log_tail(index)}",
                    f"Committed work is safe. Its log is {self._log_path(index)}. {died.hint} Fix the cause, then "
                    "`selfplay resume`.",
                )
            self._events.append(
                f"{self._name} worker {index} died ({died}) and is replaced; its log is {self._log_path(index)}"
            )
            self._actors[index] = self._create(index)
            self._await_start([index])
            try:
                return {
                    method: self._ask(index, method, args) for method, args in self._broadcasts.items()
                }  # in the order of the broadcasts
            except WorkerDied as again:
                died = again

    def _ask(self, index: int, method: str, args: tuple[Any, ...]) -> Any:
        self._heartbeats[index].restart()
        reference = self._actors[index].call.remote(method, args)
        return self._result(self._wait_for(reference, index), index)

    def drain_events(self) -> list[str]:
        """See `Pool.drain_events`."""
        events, self._events = self._events, []
        return events

    def replace_dead(self) -> None:
        """Replace workers that died since the last call. Call it before another run uses the pool."""
        if not self._ready:
            return
        self._replaced = 0
        for index, actor in enumerate(self._actors):
            self._heartbeats[index].restart()
            try:
                self._result(self._wait_for(actor.ping.remote(), index), index)
            except WorkerDied as died:
                self._replace(index, died)

    def close(self) -> None:
        """Kill the actors now."""
        import ray

        for actor in (*self._actors, *self._spare):
            ray.kill(actor)
        for watch in self._exits:
            watch.close()
        self._actors, self._built, self._ready = [], {}, False
