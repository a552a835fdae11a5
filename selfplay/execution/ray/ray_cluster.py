"""Ray: a local instance or a joined cluster, its resources, and the pools of a run. Only `execution/ray/` imports ray.

Ray starts without a dashboard, on loopback, and quiet. Its processes end with the driver, however the driver ends.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import ConfigError, ResourceError
from selfplay.core.pool import BackendSpec
from selfplay.execution.ray.local_ray import LocalRay
from selfplay.execution.ray.private_api import LOOPBACK, allow_loopback, job_without_working_directory
from selfplay.execution.ray.ray_pool import RayPool
from selfplay.execution.ray.signal_mask import mask_sigterm

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
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
        _set_environment(local=self._config.address is None)
        import ray

        common: dict[str, Any] = {
            "log_to_driver": False, "logging_level": "ERROR", "configure_logging": True,
            "job_config": job_without_working_directory(),
        }  # fmt: skip
        try:
            # ray.init would replace the driver's handler of SIGTERM, which stops a run at a safe point
            with mask_sigterm():
                if self._config.address is None:
                    allow_loopback()
                    ray.init(
                        address="local",
                        include_dashboard=False,
                        object_store_memory=512 << 20,
                        **LOOPBACK,
                        **common,
                    )
                    self._own = LocalRay()
                else:
                    _check_token(self._config.address)
                    _check_reachable(self._config.address)
                    ray.init(address=self._config.address, **common)
        except (OSError, RuntimeError, ValueError) as error:
            what = "start Ray here" if self._config.address is None else f"join {self._config.address}"
            raise ResourceError(
                f"could not {what}: {error}", "`selfplay doctor` checks the environment; `ray status` the cluster."
            ) from error
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


def _set_environment(*, local: bool) -> None:
    """Set what Ray reads from the environment, in this process and in those that it starts."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # otherwise Ray hides all GPUs from a worker that reserves none
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if local:
        # a private cluster on loopback needs no token, which would leave a file in the user's home
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Ray would start a worker for each core, which selfplay's workers do not use: they have their own environments
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")


def _check_token(address: str) -> None:
    """Raise ConfigError if a cluster beyond this machine would be joined without a token: Ray executes code from anybody who
    reaches its ports. A user sets `RAY_AUTH_MODE=disabled` on a network that nobody else can reach."""
    host = address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    here = host in ("", "localhost", "::1") or host.startswith("127.")
    if here or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    kept = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not kept.is_file():
        raise ConfigError(
            f"cluster.address is {address}, but there is no token to join it with",
            "Start the cluster with RAY_AUTH_MODE=token and give its token here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token). On a network that nobody else can reach: RAY_AUTH_MODE=disabled.",
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at "host:port" or "ray://host:port": Ray itself would try for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _amounts(resources: Mapping[str, float]) -> str:
    hidden = ("node:", "memory", "object_store")
    shown = {name: value for name, value in sorted(resources.items()) if not name.startswith(hidden)}
    return ", ".join(f"{value:g} {name}" for name, value in shown.items()) or "nothing"
