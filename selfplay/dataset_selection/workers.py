"""The workers of a selection: the same backends as a run's, started when the first of them is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from selfplay.core.pool import BackendSpec, Pool
from selfplay.dataset_selection.models import Models
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.store.durable import make_folder

MakePools = Callable[[SelectSettings, Models, Path], AbstractContextManager[Mapping[str, Pool]]]


class LazyPools:
    """Context manager; `get` starts the workers at its first call, all of them at once."""

    def __init__(self, make: MakePools, settings: SelectSettings, models: Models, log_folder: Path) -> None:
        self._make, self._arguments = make, (settings, models, log_folder)
        self._pools: Mapping[str, Pool] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> LazyPools:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)

    def get(self, role: str) -> Pool:
        """The pool of "scorer" or "logprobs"."""
        if self._pools is None:
            self._pools = self._stack.enter_context(self._make(*self._arguments))
        return self._pools[role]


@contextlib.contextmanager
def ray_pools(settings: SelectSettings, models: Models, log_folder: Path) -> Iterator[Mapping[str, Pool]]:
    """Ray and the pools that the given models need."""
    from selfplay.execution.ray.ray_cluster import RayCluster

    make_folder(log_folder)
    specs = worker_specs(settings, models)
    with RayCluster(settings.cluster, log_folder) as cluster:
        cluster.check_resources()
        pools = {role: cluster.pool(role, spec) for role, spec in specs.items()}
        for pool in pools.values():
            pool.start()
        yield pools


def worker_specs(settings: SelectSettings, models: Models) -> dict[str, BackendSpec]:
    """Which backend each role runs, and with what: float32 on a CPU, bfloat16 on a GPU."""
    specs: dict[str, BackendSpec] = {}
    if models.reward is not None:
        specs["scorer"] = BackendSpec(
            "selfplay.backends.transformers.reward_model:RewardModel",
            {
                "model": str(models.reward.folder),
                "threads": settings.cluster.scorer.threads,
            },
        )
    elif models.reward_function is not None:
        specs["scorer"] = BackendSpec(
            "selfplay.inputs.user_code.rewards:RewardFunction",
            {"spec": models.reward_function, "search_path": str(models.search_path)},
        )
    if models.policy is not None or models.embedding is not None:
        specs["logprobs"] = BackendSpec(
            "selfplay.backends.transformers.logprobs:TorchLogprobs",
            {
                "threads": settings.cluster.logprobs.threads,
            },
        )
    return specs
