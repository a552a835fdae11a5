"""What is sure to be needed starts while the driver checks settings and inputs: Ray, and workers that import their libraries.

Nothing that the checks are about is loaded: a worker gets its backend, with the arguments that name models, after them. Where the
checks fail, all of it ends. An early start that is not possible is no error: the start after the checks says why.
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any

from selfplay.config.device_shares import demand
from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import SelfplayError
from selfplay.core.pool import BackendSpec
from selfplay.execution.ray.environment import set_environment, worker_environment
from selfplay.execution.ray.local_ray import LocalRay
from selfplay.execution.ray.ray_workers import new_worker

# the checks begin after so many seconds, whether Ray has started or not
_SECONDS = 10.0


class EarlyStart:
    """A local Ray, begun, with workers of one role. A `RayCluster` takes both over. The context ends what is left of them.

    `spec`: the backend of `role`, whose arguments may be missing; `scorers`: see `RayCluster`."""

    def __init__(self, config: ClusterConfig, role: str, spec: BackendSpec, *, scorers: int = 1) -> None:
        self._config, self._role, self._spec, self._scorers = config, role, spec, scorers
        self._workers: list[Any] = []
        self.ray = LocalRay(self._start_workers)
        set_environment()
        with contextlib.suppress(SelfplayError):
            self.ray.begin()

    def _start_workers(self) -> None:
        import ray

        config: RoleConfig = getattr(self._config, self._role)
        num_gpus = float(ray.cluster_resources().get("GPU", 0))
        reserved = demand(self._config, self._role, num_gpus, self._scorers)
        # the settings may ask for any number, and are not trusted yet
        for _ in range(min(config.replicas, os.cpu_count() or 1)):
            worker = new_worker(self._spec, reserved, worker_environment(config))
            worker.prepare.remote(self._spec.preload)
            self._workers.append(worker)

    def take(self, role: str) -> list[Any]:
        """The workers of a role, for the first pool that asks; Ray has started."""
        if role != self._role:
            return []
        found, self._workers = self._workers, []
        return found

    def wait(self) -> None:
        """Wait a while for Ray. Its start and the checks are Python in one process and would slow each other down, and the
        imports of the workers, which follow it, take longer than the checks."""
        self.ray.wait(_SECONDS)

    def __enter__(self) -> EarlyStart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ray.end(at_once=isinstance(value, KeyboardInterrupt))
