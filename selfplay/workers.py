"""Which backend each role runs, with what, and on what: the bridge from a configuration to the pools of `cluster/`.

Backends are named, not imported: they live in the workers' processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfplay.cluster.pool import BackendSpec, Workers
from selfplay.config.schema import Config
from selfplay.inputs import Inputs
from selfplay.plan import gpu_memory


@contextlib.contextmanager
def ray_workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
    """Ray and the pools of this run, started together: imports of one role hide behind the work of another."""
    from selfplay.cluster.ray_cluster import RayCluster

    with RayCluster(config.cluster, folder) as cluster:
        cluster.check_resources()
        specs = worker_specs(config, inputs)
        workers = Workers(
            sampler=cluster.pool("sampler", specs["sampler"]),
            scorer=cluster.pool("scorer", specs["scorer"]),
            logprobs=cluster.pool("logprobs", specs["logprobs"]),
            trainer=cluster.pool("trainer", specs["trainer"]),
            gold=cluster.pool("scorer", specs["gold"], name="gold") if "gold" in specs else None,
        )
        workers.start()
        yield workers


@dataclass(frozen=True, slots=True)
class Device:
    """What follows from having a GPU or not: dtype of the engine, autocast of the trainer, size of padded batches."""

    engine_dtype: str
    precision: str
    batch_tokens: int

    @classmethod
    def of(cls, config: Config) -> Device:
        """By what nvidia-smi finds where the settings say auto."""
        gpu = bool(gpu_memory())
        dtype, precision = config.policy.dtype, config.training.precision
        return cls(
            engine_dtype=dtype if dtype != "auto" else ("bfloat16" if gpu else "float32"),
            precision=precision if precision != "auto" else ("bf16" if gpu else "float32"),
            # small batches waste less padding, and only a GPU gains from large ones
            batch_tokens=16384 if gpu else 2048,
        )


def worker_specs(config: Config, inputs: Inputs) -> dict[str, BackendSpec]:
    """Which backend each role runs, and with what."""
    search_path = str(inputs.search_path)
    trust = config.policy.trust_remote_code
    device = Device.of(config)
    specs = {
        "sampler": BackendSpec(
            "selfplay.backends.vllm_sampler:VllmSampler",
            {
                "engine": dict(config.sampling.engine),
                "dtype": config.policy.dtype,
                "max_model_len": inputs.context_length,
                "seed": config.seed & 0x7FFFFFFF,
                "trust_remote_code": trust,
            },
            setup="selfplay.backends.engine_args:prepare_environment",
        ),
        "logprobs": BackendSpec(
            "selfplay.backends.logprobs:TorchLogprobs",
            {
                # the trainer's precision, whose own log-probs must agree with these
                "dtype": "bfloat16" if device.precision == "bf16" else "float32",
                "batch_tokens": device.batch_tokens,
                "threads": config.cluster.logprobs.threads,
                "trust_remote_code": trust,
            },
        ),
        "trainer": BackendSpec(
            "selfplay.backends.trl_trainer:TrlTrainer",
            {"threads": config.cluster.trainer.threads, "trust_remote_code": trust},
        ),
    }
    reward = config.reward
    if inputs.reward is not None:
        specs["scorer"] = BackendSpec(
            "selfplay.backends.reward_model:RewardModel",
            {
                "model": str(inputs.reward.folder),
                "dtype": reward.dtype,
                "batch_tokens": reward.batch_tokens or device.batch_tokens,
                "max_length": reward.max_length,
                "sees": reward.sees,
                "trust_remote_code": reward.trust_remote_code,
                "threads": config.cluster.scorer.threads,
            },
        )
    else:
        assert reward.function is not None, "the config has a reward model or a reward function"
        specs["scorer"] = _function(reward.function, search_path, reward.batched)
    if config.evaluation is not None and config.evaluation.gold is not None:
        specs["gold"] = _function(config.evaluation.gold, search_path, False)
    return specs


def _function(spec: str, search_path: str, batched: bool) -> BackendSpec:
    kwargs = {"spec": spec, "search_path": search_path, "batched": batched}
    return BackendSpec("selfplay.backends.reward_function:RewardFunction", kwargs)
