"""Ray: a local instance or a joined cluster, its resources, and the pools of a run. Only `execution/ray/` imports ray.

Ray starts without a dashboard, on loopback, and quiet. Its processes end with the driver, however the driver ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from selfplay.config.device_shares import ROLES, demand, num_workers, own_devices
from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import ResourceError
from selfplay.core.limits import describe_shortages
from selfplay.core.pool import BackendSpec
from selfplay.core.timing import loading
from selfplay.execution.ray.cluster_address import check_may_join, check_reachable
from selfplay.execution.ray.early_start import EarlyStart
from selfplay.execution.ray.environment import set_environment, worker_environment
from selfplay.execution.ray.local_ray import LocalRay
from selfplay.execution.ray.private_api import job_without_working_directory, read_environment
from selfplay.execution.ray.ray_pool import RayPool
from selfplay.execution.ray.signal_mask import keep_signal_handlers


class RayCluster:
    """Context manager around ray.init and ray.shutdown. `scorers`: the number of pools of the role scorer (a combined reward has
    one for each part), each with the replicas and reservations of `cluster.scorer`. `early`: a local Ray that was begun before,
    which this cluster takes over and ends."""

    def __init__(
        self, config: ClusterConfig, log_folder: Path, *, scorers: int = 1, early: EarlyStart | None = None
    ) -> None:
        self._config = config
        self._early = early
        self._scorers = scorers
        self._log_folder = log_folder
        self._pools: list[RayPool] = []
        self._own: LocalRay | None = None

    def __enter__(self) -> RayCluster:
        set_environment()
        with loading("Ray"):
            if self._config.address is None:
                own = self._early.ray if self._early is not None else LocalRay()
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
            one = self._demand(role)
            for name, amount in one.items():
                need[name] = need.get(name, 0) + amount * num_workers(self._config, role, self._scorers)
            if not any(all(node.get(name, 0) >= amount for name, amount in one.items()) for node in nodes):
                raise ResourceError(
                    f"no node can hold one {role} worker: it needs {_amounts(one)}; the largest node has "
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
        if self._own is not None:  # nobody else uses it
            return
        free = ray.available_resources()
        if taken := {name: amount for name, amount in need.items() if amount > free.get(name, 0) + 1e-9}:
            raise ResourceError(
                f"the workers together need {_amounts(need)}; others use the cluster, "
                f"so only {_amounts({name: free.get(name, 0) for name in taken})} of "
                f"{_amounts({name: total[name] for name in taken})} are free",
                "Wait until they finish (`ray status` shows them), or lower the replicas or reservations under cluster:.",
            )

    def _demand(self, role: str) -> dict[str, float]:
        return demand(self._config, role, self.num_gpus(), self._scorers)

    def own_devices(self) -> frozenset[str]:
        """See `device_shares.own_devices`."""
        return own_devices(self._config, self.num_gpus(), self._scorers)

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
        pool = RayPool(
            name=name or role,
            spec=spec,
            replicas=config.replicas,
            demand=self._demand(role) if reserves else {},
            env=worker_environment(config),
            log_folder=self._log_folder,
            retries=self._config.retries,
            start_timeout=self._config.start_timeout,
            heartbeat_timeout=self._config.heartbeat_timeout,
            check_ray=self._own.check if self._own is not None else None,
            lacking=describe_shortages if self._own is not None else None,
            spare=self._early.take(role) if self._early is not None else (),
        )
        self._pools.append(pool)
        return pool


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
