"""The devices that the workers of each role reserve in a cluster, and the roles that have devices of their own."""

from __future__ import annotations

import math

from selfplay.config.running import ClusterConfig, RoleConfig

ROLES = ("sampler", "scorer", "logprobs", "trainer")


def num_workers(cluster: ClusterConfig, role: str, scorers: int) -> int:
    """Workers of a role, over all its pools: `scorers` is the number of pools of the role scorer."""
    config: RoleConfig = getattr(cluster, role)
    return config.replicas * (scorers if role == "scorer" else 1)


def demand(cluster: ClusterConfig, role: str, num_gpus: float, scorers: int) -> dict[str, float]:
    """What one worker of a role reserves, as Ray names it ("CPU", "GPU", custom resources), in a cluster with `num_gpus` GPUs."""
    config: RoleConfig = getattr(cluster, role)
    gpus = config.num_gpus
    if gpus is None:
        others = sum(num_workers(cluster, name, scorers) for name in ROLES if name != "sampler")
        gpus = gpu_share(num_gpus, num_workers(cluster, "sampler", scorers), others, is_engine=role == "sampler")
    found = {"CPU": config.num_cpus, "GPU": gpus, **config.resources}
    return {name: amount for name, amount in found.items() if amount > 0}


def own_devices(cluster: ClusterConfig, num_gpus: float, scorers: int) -> frozenset[str]:
    """The roles whose workers may work at the same time as those of the others: all with `cluster.overlap: true`, none with
    `false`, else those for which whole GPUs are reserved or, in a cluster without a GPU, CPUs."""
    if cluster.overlap != "auto":
        return frozenset(ROLES if cluster.overlap else ())
    # workers that reserve no GPU see all of them
    device, least = ("GPU", 1.0) if num_gpus else ("CPU", 1e-9)
    return frozenset(role for role in ROLES if demand(cluster, role, num_gpus, scorers).get(device, 0) >= least)


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
