"""Which backend each role runs, and with which arguments: from a configuration to the pools of `execution/ray/`.

Backends are named, not imported: they run in the workers' processes, which choose `auto` settings by their own device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selfplay.config.schema import Config
from selfplay.core.pool import BackendSpec, Pool, Workers
from selfplay.inputs.resolve import Inputs
from selfplay.run.stages.sampling import MAX_CALLS

if TYPE_CHECKING:
    from selfplay.execution.ray.early_start import EarlyStart


MakeWorkers = Callable[[Config, Inputs, Path], AbstractContextManager[Workers]]


@contextlib.contextmanager
def ray_workers(config: Config, inputs: Inputs, folder: Path, early: EarlyStart | None = None) -> Iterator[Workers]:
    """Ray and the pools of this run, which start as `Workers.start_first` says. `early`: what has started before."""
    with _pools(config, inputs, folder, early) as workers:
        workers.start_first()
        yield workers


@contextlib.contextmanager
def early_ray_workers(config: Config) -> Iterator[MakeWorkers]:
    """`ray_workers` of a run that may be refused yet: Ray starts at once, and the engine's workers import vLLM. What was started
    and is not used ends with the context. A cluster is joined after the checks: whoever is there executes code here."""
    if config.cluster.address is not None:
        yield ray_workers
        return
    from selfplay.execution.ray.early_start import EarlyStart

    with EarlyStart(config.cluster, "sampler", _ENGINE, scorers=len(config.reward.sources())) as early:
        early.wait()
        yield functools.partial(ray_workers, early=early)


@contextlib.contextmanager
def lazy_ray_workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
    """Ray and the pools of a selection from a dataset, each started by its first call: it samples and trains nothing."""
    with _pools(config, inputs, folder) as workers:
        yield workers


@contextlib.contextmanager
def _pools(config: Config, inputs: Inputs, folder: Path, early: EarlyStart | None = None) -> Iterator[Workers]:
    from selfplay.execution.ray.ray_cluster import RayCluster

    with RayCluster(config.cluster, folder, scorers=len(config.reward.sources()), early=early) as cluster:
        cluster.check_resources()
        specs = worker_specs(config, inputs)
        pools = {key: make_pool(cluster, key, spec) for key, spec in specs.items()}
        yield workers_of(pools, cluster.own_devices())


class Cluster(Protocol):
    """What this file needs of a `RayCluster` that has been entered."""

    def check_resources(self) -> None:
        """Raise ResourceError when the workers together can never be placed."""

    def pool(self, role: str, spec: BackendSpec, *, name: str = "", reserves: bool = True) -> Any:
        """The pool of a role."""

    def own_devices(self) -> frozenset[str]:
        """See `Workers`."""


_PART = "reward.parts."
_VLLM_SETUP = "selfplay.backends.vllm.engine_args:prepare_environment"
# without its arguments
_ENGINE = BackendSpec(
    "selfplay.backends.vllm.sampler:VllmSampler",
    setup=_VLLM_SETUP,
    concurrency=MAX_CALLS,
    preload="selfplay.backends.vllm.preload:import_engine",
)


def make_pool(cluster: Cluster, key: str, spec: BackendSpec) -> Any:
    """The pool of one of `worker_specs`, by its key."""
    if key.startswith(_PART):
        return cluster.pool("scorer", spec, name=f"scorer-{key.removeprefix(_PART)}")
    if key == "gold":
        return cluster.pool("scorer", spec, name="gold", reserves=False)
    return cluster.pool("scorer" if key == "reward" else key, spec)


def workers_of(pools: Mapping[str, Pool], own_devices: frozenset[str] = frozenset()) -> Workers:
    """The pools of a run, by the keys of `worker_specs`, as stages use them. `own_devices`: see `Workers`."""
    return Workers(
        sampler=pools["sampler"],
        scorer=pools.get("reward"),
        parts={key.removeprefix(_PART): pools[key] for key in sorted(pools) if key.startswith(_PART)},
        logprobs=pools["logprobs"],
        trainer=pools["trainer"],
        gold=pools.get("gold"),
        own_devices=own_devices,
    )


def worker_specs(config: Config, inputs: Inputs) -> dict[str, BackendSpec]:
    """The backend of each role with its arguments; scorers are under the sections of their rewards (see
    `RewardConfig.sources`)."""
    search_path = str(inputs.search_path)
    trust = config.policy.trust_remote_code
    specs = {
        "sampler": replace(
            _ENGINE,
            kwargs={
                "engine": dict(config.sampling.engine),
                "dtype": config.policy.dtype,
                "max_model_len": inputs.context_length,
                "seed": config.seed & 0x7FFFFFFF,
                "trust_remote_code": trust,
            },
        ),
        "logprobs": BackendSpec(
            "selfplay.backends.transformers.logprobs:TorchLogprobs",
            {
                # that of the trainer, whose own log-probs must agree with these; `auto` is resolved in find_devices
                "dtype": {"bf16": "bfloat16"}.get(config.training.precision, config.training.precision),
                "threads": config.cluster.logprobs.threads,
                "trust_remote_code": trust,
            },
        ),
        "trainer": BackendSpec(
            "selfplay.backends.trl.trainer:TrlTrainer",
            {"threads": config.cluster.trainer.threads, "trust_remote_code": trust},
        ),
    }
    for section, source in config.reward.sources().items():
        if source.function is not None:
            specs[section] = _function(source.function, search_path, source.batched)
            continue
        plain = source.engine == "transformers"
        specs[section] = BackendSpec(
            "selfplay.backends.transformers.reward_model:RewardModel"
            if plain
            else "selfplay.backends.reward_engines:RewardEngines",
            {
                "model": str(inputs.rewards[section].folder),
                "dtype": source.dtype,
                "batch_tokens": config.reward.batch_tokens,
                "max_length": source.max_length,
                "sees": source.sees,
                "trust_remote_code": source.trust_remote_code,
                "threads": config.cluster.scorer.threads,
            },
            setup=None if plain else _VLLM_SETUP,
        )
    if config.evaluation is not None and config.evaluation.gold is not None:
        specs["gold"] = _function(config.evaluation.gold, search_path, False)
    return specs


def _function(spec: str, search_path: str, batched: bool) -> BackendSpec:
    kwargs = {"spec": spec, "search_path": search_path, "batched": batched}
    return BackendSpec("selfplay.inputs.user_code.rewards:RewardFunction", kwargs, secrets=True)
