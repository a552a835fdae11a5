"""A pool of Ray actors of one role: bounded work in flight, actors that die replaced, errors that name the worker.

Only a start has a deadline, a call has none: how long a shard may take depends on models, lengths and machine, and a
working engine that is killed costs more than a wait. A worker that hangs is ended from outside: Ctrl-C twice, or
SIGTERM and its grace, end the driver and every worker with it, and only the shards in flight are asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.cluster.pool import BackendSpec, Call
from selfplay.errors import BackendError, SelfplayError

# A worker has one call running and one waiting, so that it never idles between two.
IN_FLIGHT = 2


class RayPool:
    """See `Pool`. Actors are started by `start()`, stay alive across rounds, and are replaced at most `retries` times
    in one `map` or `everyone`."""

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
    ) -> None:
        self._name = name
        self._spec = spec
        self._replicas = replicas
        self._demand = dict(demand)
        self._env = dict(env)
        self._log_folder = log_folder
        self._retries = retries
        self._start_timeout = start_timeout
        self._actors: list[Any] = []
        self._ready = False
        self._replaced = 0
        # what every worker was told last, by method: a replacement is told the same
        self._told: dict[str, tuple[Any, ...]] = {}

    def start(self) -> None:
        """Create the actors; `_wait_ready` waits for them at the first call."""
        if not self._actors:
            self._actors = [self._create(index) for index in range(self._replicas)]

    def _log_path(self, index: int) -> Path:
        return self._log_folder / f"{self._name}-{index}.log"

    def _create(self, index: int) -> Any:
        import ray

        from selfplay.cluster.worker import Worker

        custom = {name: amount for name, amount in self._demand.items() if name not in ("CPU", "GPU")}
        remote = ray.remote(Worker).options(
            num_cpus=self._demand.get("CPU", 0),
            num_gpus=self._demand.get("GPU", 0),
            resources=custom,
            runtime_env={"env_vars": self._env},
            max_restarts=0,
            name=None,
        )
        return remote.remote(self._spec, str(self._log_path(index)))

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
        done, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=self._start_timeout)
        for reference in done:
            index = waiting[reference]
            try:
                self._result(reference, index)
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

    def _result(self, reference: Any, index: int) -> Any:
        """ray.get with our own errors instead of Ray's wrappers; a dead actor raises _WorkerDied."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, BackendError):
                hint = cause.hint or f"The whole traceback is in {self._log_path(index)}"
                raise type(cause)(f"{self._name} worker {index}: {cause.message}", hint) from None
            if isinstance(cause, SelfplayError):
                raise cause from None
            raise BackendError(f"{self._name} worker {index}: {cause}", f"See {self._log_path(index)}") from None
        except ray.exceptions.RayError as error:
            raise _WorkerDied((str(error).strip() or type(error).__name__).splitlines()[0]) from None

    def _last_words(self, index: int, lines: int = 5) -> str:
        path = self._log_path(index)
        if not path.is_file():
            return ""
        tail = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
        return ("\n  its last words:\n    " + "\n    ".join(tail)) if tail else ""

    def _replace(self, index: int, died: _WorkerDied) -> dict[str, Any]:
        """An actor in the place of one that died, told all that everyone was told; returns its answers by method."""
        while True:
            self._replaced += 1
            if self._replaced > self._retries:
                raise BackendError(
                    f"{self._name} worker {index} died ({died}); {self._name} workers died {self._replaced} times "
                    f"in this stage, cluster.retries is {self._retries}{self._last_words(index)}",
                    f"Committed work is safe. Its log is {self._log_path(index)}; out of memory is the usual reason. "
                    "Mend the cause, then `selfplay resume`.",
                )
            self._actors[index] = self._create(index)
            self._await_start([index])
            try:
                return {
                    method: self._result(self._actors[index].call.remote(method, args), index)
                    for method, args in self._told.items()
                }
            except _WorkerDied as again:
                died = again

    def map(self, method: str, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """See `Pool.map`. A call whose worker died is run again on the replacement."""
        import ray

        self._begin()
        queue = iter(calls)
        again: deque[Call] = deque()
        running: dict[Any, tuple[int, Call]] = {}

        def submit(index: int) -> None:
            call = again.popleft() if again else next(queue, None)
            if call is not None:
                running[self._actors[index].call.remote(method, call.args)] = (index, call)

        for _ in range(IN_FLIGHT):
            for index in range(self._replicas):
                submit(index)
        try:
            while running:
                (reference, *_), _ = ray.wait(list(running), num_returns=1)
                index, call = running.pop(reference)
                try:
                    result = self._result(reference, index)
                except _WorkerDied as died:
                    again.append(call)
                    for other in [ref for ref, (where, _) in running.items() if where == index]:
                        again.append(running.pop(other)[1])
                    self._replace(index, died)
                    for _ in range(IN_FLIGHT):
                        submit(index)
                    continue
                submit(index)
                yield call.key, result
        finally:
            # drops what has not begun; a call under way runs to its end and its result is dropped
            for reference in running:
                ray.cancel(reference)

    def everyone(self, method: str, *args: Any) -> list[Any]:
        """See `Pool.everyone`. A worker that dies in it is replaced."""
        self._begin()
        self._told[method] = args
        references = [actor.call.remote(method, args) for actor in self._actors]
        results = []
        for index, reference in enumerate(references):
            try:
                results.append(self._result(reference, index))
            except _WorkerDied as died:
                results.append(self._replace(index, died)[method])
        return results

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """See `Pool.stream`. A worker that dies in it is not replaced: what it had done is in its own scratch."""
        self._begin()
        generator = self._actors[0].stream.options(num_returns="streaming").remote(method, args)
        try:
            for reference in generator:
                yield self._result(reference, 0)
        except _WorkerDied as died:
            raise BackendError(
                f"the {self._name} died ({died}){self._last_words(0)}",
                f"Committed work is safe. Its log is {self._log_path(0)}. "
                "`selfplay resume` goes on from its last checkpoint.",
            ) from None

    def heal(self) -> None:
        """Replace workers that died since the last call: before another run uses the pool."""
        if not self._ready:
            return
        self._replaced = 0
        for index, actor in enumerate(self._actors):
            try:
                self._result(actor.ready.remote(), index)
            except _WorkerDied as died:
                self._replace(index, died)

    def close(self) -> None:
        """End the actors now, whatever they are doing."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._ready = [], False


class _WorkerDied(Exception):
    """Inside this module only: the process behind an actor is gone."""
