"""Ray: a local instance or a joined cluster, its resources, and the pools of a run. Only `execution/ray/` imports ray.

Ray starts without a dashboard, on loopback, and quiet. Its processes end with the driver, however the driver ends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import ResourceError
from selfplay.core.limits import describe_shortages
from selfplay.core.pool import BackendSpec
from selfplay.core.timing import loading
from selfplay.execution.ray.cluster_address import check_may_join, check_reachable
from selfplay.execution.ray.local_ray import LocalRay
from selfplay.execution.ray.private_api import job_without_working_directory, read_environment
from selfplay.execution.ray.ray_pool import RayPool
from selfplay.execution.ray.signal_mask import keep_signal_handlers

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # a thread that still waits when Ray has been shut down must not start another one
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
# otherwise Ray hides all GPUs from a worker that reserves none
KEEP_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
ROLES = ("sampler", "scorer", "logprobs", "trainer")


class RayCluster:
    """Context manager around ray.init and ray.shutdown. `scorers`: the number of pools of the role scorer (a combined reward has
    one for each part), each with the replicas and reservations of `cluster.scorer`."""

    def __init__(self, config: ClusterConfig, log_folder: Path, *, scorers: int = 1) -> None:
        self._config = config
        self._scorers = scorers
        self._log_folder = log_folder
        self._pools: list[RayPool] = []
        self._own: LocalRay | None = None

    def __enter__(self) -> RayCluster:
        for name, value in {**QUIET, **KEEP_GPUS}.items():
            os.environ.setdefault(name, value)
        with loading("Ray"):
            if self._config.address is None:
                own = LocalRay()
                own.start()
                self._own = own
            else:
                _join(self._config.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for pool in self._pools:
            pool.close()
        if self._own is not None:
            self._own.end()
        else:
            ray.shutdown()

    def num_gpus(self) -> float:
        """GPUs that Ray counts."""
        import ray

        return float(ray.cluster_resources().get("GPU", 0))

    def check_resources(self) -> None:
        """Raise ResourceError if the workers together can never be placed. The message gives what they need and what exists."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        need: dict[str, float] = {}
        for role in ROLES:
            config: RoleConfig = getattr(self._config, role)
            demand = self._demand(config)
            for name, amount in demand.items():
                need[name] = need.get(name, 0) + amount * self._replicas(role)
            if not any(all(node.get(name, 0) >= amount for name, amount in demand.items()) for node in nodes):
                raise ResourceError(
                    f"no node can hold one {role} worker: it needs {_amounts(demand)}; the largest node has "
                    f"{_amounts(max(nodes, key=lambda node: node.get('GPU', 0) * 1000 + node.get('CPU', 0)))}",
                    f"Lower cluster.{role}, or join a cluster that has it with cluster.address.",
                )
        total: dict[str, float] = {}
        for node in nodes:
            for name, amount in node.items():
                total[name] = total.get(name, 0) + amount
        if short := {name: amount for name, amount in need.items() if amount > total.get(name, 0) + 1e-9}:
            raise ResourceError(
                f"the workers together need {_amounts(need)}; the cluster has "
                f"{_amounts({name: total.get(name, 0) for name in need})} ({', '.join(short)} is short)",
                "Lower the replicas or reservations under cluster: (num_cpus: 0 lets workers take turns).",
            )
        free = ray.available_resources()
        if taken := {name: amount for name, amount in need.items() if amount > free.get(name, 0) + 1e-9}:
            raise ResourceError(
                f"the workers together need {_amounts(need)}; others use the cluster, "
                f"so only {_amounts({name: free.get(name, 0) for name in taken})} of "
                f"{_amounts({name: total[name] for name in taken})} are free",
                "Wait until they finish (`ray status` shows them), or lower the replicas or reservations under cluster:.",
            )

    def _replicas(self, role: str) -> int:
        """Workers of a role, over all its pools."""
        config: RoleConfig = getattr(self._config, role)
        return config.replicas * (self._scorers if role == "scorer" else 1)

    def _demand(self, role: RoleConfig) -> dict[str, float]:
        gpus = role.num_gpus
        if gpus is None:
            replicas = {name: self._replicas(name) for name in ROLES}
            engines = replicas.pop("sampler")
            is_engine = role is self._config.sampler
            gpus = gpu_share(self.num_gpus(), engines, sum(replicas.values()), is_engine=is_engine)
        demand = {"CPU": role.num_cpus, "GPU": gpus, **role.resources}
        return {name: amount for name, amount in demand.items() if amount > 0}

    def own_devices(self) -> frozenset[str]:
        """The roles whose workers may work at the same time as those of the others: all with `cluster.overlap: true`, none with
        `false`, else those for which whole GPUs are reserved or, in a cluster without a GPU, CPUs."""
        if self._config.overlap != "auto":
            return frozenset(ROLES if self._config.overlap else ())
        demands = {role: self._demand(getattr(self._config, role)) for role in ROLES}
        return frozenset(
            role
            for role, demand in demands.items()
            # workers that reserve no GPU see all of them
            if (demand.get("GPU", 0) >= 1 if self.num_gpus() else demand.get("CPU", 0) > 0)
        )

    def pool(
        self,
        role: str,
        spec: BackendSpec,
        *,
        name: str = "",
        reserves: bool = True,
    ) -> RayPool:
        """The pool of a role; workers start with `start()` or at the first call.

        A second pool of a role needs its own `name`. A pool that `check_resources` does not count (gold, beside scorer)
        reserves nothing.
        """
        config: RoleConfig = getattr(self._config, role)
        threads = {"OMP_NUM_THREADS": str(config.threads), "MKL_NUM_THREADS": str(config.threads)}
        pool = RayPool(
            name=name or role,
            spec=spec,
            replicas=config.replicas,
            demand=self._demand(config) if reserves else {},
            env={**QUIET, **threads},
            log_folder=self._log_folder,
            retries=self._config.retries,
            start_timeout=self._config.start_timeout,
            heartbeat_timeout=self._config.heartbeat_timeout,
            check_ray=self._own.check if self._own is not None else None,
            lacking=describe_shortages if self._own is not None else None,
        )
        self._pools.append(pool)
        return pool


def gpu_share(num_gpus: float, num_engines: int, num_others: int, *, is_engine: bool) -> float:
    """GPUs to reserve for one worker where `num_gpus` is not set: only Ray's bookkeeping (an engine's memory is its
    gpu_memory_utilization). With enough devices one each; else engines have their own, and the rest share what is left; a
    single device is shared by all in turn.

    Shares are unit fractions, so that they fill whole devices.
    """
    devices = int(num_gpus)
    if devices == 0:
        return 0.0
    if devices >= num_engines + num_others:
        return 1.0
    if devices > num_engines:
        return 1.0 if is_engine else _unit_share(devices - num_engines, num_others)
    return _unit_share(devices, num_engines + num_others)


def _unit_share(devices: int, workers: int) -> float:
    return math.floor(1e4 / math.ceil(workers / devices)) / 1e4


def _join(text: str) -> None:
    """ray.init for a cluster that runs already."""
    address = check_may_join(text)
    import ray

    try:
        check_reachable(address)
        read_environment()
        with keep_signal_handlers():
            ray.init(
                address=text, log_to_driver=False, logging_level="ERROR", job_config=job_without_working_directory()
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(f"could not join {text}: {error}", "`ray status` checks the cluster.") from error


def _amounts(resources: Mapping[str, float]) -> str:
    hidden = ("node:", "memory", "object_store")
    shown = {name: value for name, value in sorted(resources.items()) if not name.startswith(hidden)}
    return ", ".join(f"{value:g} {name}" for name, value in shown.items()) or "nothing"
