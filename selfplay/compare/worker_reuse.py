"""One Ray cluster and one set of workers for a whole comparison.

A run asks for workers and is given the ones that live already wherever its own would be made in the same way. What would differ
(another world's reward model) is closed first, so that there is never more than one set. Workers that died are replaced before a
run begins as they are within one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.pool import BackendSpec, Workers
from selfplay.inputs.resolve import Inputs
from selfplay.run.worker_specs import Cluster, make_pool, worker_specs, workers_of
from selfplay.store.durable import make_folder

SAMPLER = "selfplay.backends.vllm.sampler:VllmSampler"


class WarmWorkers:
    """A `MakeWorkers` (see driver) whose workers stay. Enter it once around all runs; Ray starts when a run first asks."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._stack = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._made_for: Any = None
        # key of worker_specs -> what its workers were made with, and the pool
        self._pools: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> WarmWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @contextlib.contextmanager
    def __call__(self, config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        """The workers of one run; they stay when it ends."""
        cluster = self._cluster_for(config)
        specs = worker_specs(config, inputs)
        for key, (made_with, pool) in list(self._pools.items()):
            if key not in specs or warm_key(specs[key], inputs) != made_with:
                pool.close()
                del self._pools[key]
            else:
                pool.replace_dead()
        for key, spec in specs.items():
            if key not in self._pools:
                pool = make_pool(cluster, key, spec)
                self._pools[key] = (warm_key(spec, inputs), pool)
                pool.start()
        yield workers_of({key: pool for key, (_, pool) in self._pools.items()}, cluster.own_devices())

    def _cluster_for(self, config: Config) -> Cluster:
        """The live cluster; a new one where the settings of the cluster have changed."""
        made_for = (config.cluster, len(config.reward.sources()))
        if self._cluster is None or self._made_for != made_for:
            self._stop()
            make_folder(self._log_folder)
            self._cluster = self._enter_cluster(config)
            self._cluster.check_resources()
            self._made_for = made_for
        return self._cluster

    def _enter_cluster(self, config: Config) -> Cluster:
        from selfplay.execution.ray.ray_cluster import RayCluster

        cluster = RayCluster(config.cluster, self._log_folder, scorers=len(config.reward.sources()))
        return self._stack.enter_context(cluster)

    def _stop(self) -> None:
        self._cluster, self._made_for, self._pools = None, None, {}
        self._stack.close()


def warm_key(spec: BackendSpec, inputs: Inputs) -> Any:
    """What must be equal for a live worker to serve another run. The engine's own seed is left out: every request brings its
    own. An engine takes other weights of its model, but keeps the tokenizer and the architecture it was built with: it stays
    only for runs that start from the same policy."""
    policy = inputs.policy.digest if spec.target == SAMPLER else ""
    return (spec.target, {name: value for name, value in spec.kwargs.items() if name != "seed"}, spec.setup, policy)
