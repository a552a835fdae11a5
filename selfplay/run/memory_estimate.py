"""Memory that is there and memory that a run takes, in bytes, counted before it starts (part of the plan)."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.config.schema import Config
from selfplay.core.errors import ModelError
from selfplay.inputs.resolve import Inputs

# float32 weights, gradients and the two moments of Adam
TRAINING_BYTES_PER_PARAMETER = 16
# the frozen weights in float32; gradients and moments of the adapters alone, about a fiftieth of the parameters
LORA_BYTES_PER_PARAMETER = 4
LORA_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What an engine on a CPU takes: weights, its cache of keys and values, and the least cache that serves one sequence of
    the whole context."""

    weights: int
    cache: int
    least_cache: int

    @property
    def total(self) -> int:
        """Weights and cache."""
        return self.weights + self.cache


def training_bytes(config: Config, num_params: int) -> int:
    """What weights, gradients and optimizer take in training; activations come on top."""
    if config.training.lora is None:
        return num_params * TRAINING_BYTES_PER_PARAMETER
    return int(num_params * (LORA_BYTES_PER_PARAMETER + LORA_SHARE * TRAINING_BYTES_PER_PARAMETER))


def engine_dtype(config: Config, *, gpu: bool) -> str:
    """The dtype of the engine: `auto` is float32 on a CPU, bfloat16 on a GPU."""
    if config.policy.dtype != "auto":
        return config.policy.dtype
    return "bfloat16" if gpu else "float32"


def reward_bytes(config: Config, inputs: Inputs, *, gpu: bool) -> int:
    """Memory of the weights of all reward models, which stay loaded in their workers; functions take what they take."""
    total = 0
    for section, source in config.reward.sources().items():
        if section in inputs.reward_infos:
            half = source.dtype == "bfloat16" or (source.dtype == "auto" and gpu)
            total += inputs.reward_infos[section].num_params * (2 if half else 4)
    return total * config.cluster.scorer.replicas


def cpu_engine_memory(config: Config, inputs: Inputs) -> EngineMemory:
    """Memory of one engine on a CPU. Raises ModelError for a config that transformers does not know, ConfigError for a cache
    size that is no number."""
    from transformers import AutoConfig

    from selfplay.inputs.models.engine_cache import cpu_cache_bytes

    dtype = engine_dtype(config, gpu=False)
    folder = inputs.policy.folder
    try:
        model = AutoConfig.from_pretrained(
            str(folder), trust_remote_code=config.policy.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"transformers cannot read {folder / 'config.json'}: {str(error).splitlines()[0]}",
            "Its model type may need a newer transformers, or policy.trust_remote_code with a pinned revision.",
        ) from error
    cache, least = cpu_cache_bytes(config.sampling.engine, model, inputs.context_length, dtype)
    return EngineMemory(inputs.policy_info.num_params * (4 if dtype == "float32" else 2), cache, least)
