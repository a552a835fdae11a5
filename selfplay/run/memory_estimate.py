"""Estimates of the memory that a run takes, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from selfplay.config.schema import Config
from selfplay.core.format import human_bytes
from selfplay.core.machine import DeviceFacts
from selfplay.inputs.resolve import Inputs

# float32 weights, gradients and the two moments of Adam
TRAINING_BYTES_PER_PARAMETER = 16
# the frozen weights in float32; gradients and moments of the adapters alone, about a fiftieth of the parameters
LORA_BYTES_PER_PARAMETER = 4
LORA_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What an engine on a CPU takes: weights, its KV cache, and the smallest KV cache that holds one sequence of the whole
    context."""

    weights: int
    cache: int
    least_cache: int

    @property
    def total(self) -> int:
        """Weights and cache."""
        return self.weights + self.cache


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """The memory that a run's processes take. `engine`: None on a GPU, where the engine takes the share that it is given."""

    num_params: int
    context_length: int
    lora: bool
    training: int
    rewards: int
    engine: EngineMemory | None
    engine_weights: int

    @property
    def trainer_weights(self) -> int:
        """The policy in float32, as the trainer loads it."""
        return 4 * self.num_params

    def warnings(self, device: DeviceFacts, where: str) -> Iterator[str]:
        """What may not fit into the available memory of `device`, which `where` names, each with the sum."""
        available = human_bytes(device.available)
        if self.training > device.available:
            parts = (
                "float32 weights, and gradients and Adam's moments of the adapters"
                if self.lora
                else "float32 weights, gradients and Adam's moments"
            )
            advice = "use" if self.lora else "train adapters (training.lora) or use"
            yield (
                f"training {self.num_params / 1e9:.2f} B parameters takes about {human_bytes(self.training)} "
                f"({self.training / self.num_params:.3g} bytes a parameter: {parts}); {where} has {available} available; "
                f"{advice} a smaller policy or more memory"
            )
        if self.engine is None:
            return
        if self.engine.weights + self.engine.least_cache > device.available:
            yield (
                f"the engine takes {human_bytes(self.engine.weights)} for weights and {human_bytes(self.engine.least_cache)} "
                f"for the keys and values of one sequence of {self.context_length} tokens, the whole context; {where} has "
                f"{available} available; set sampling.engine.max_model_len to the length that prompt and response need together"
            )
        if self.engine.total + self.rewards + self.training > device.available:
            scorers = f", and reward models of {human_bytes(self.rewards)}," if self.rewards else ""
            yield (
                f"training ({human_bytes(self.training)}) and the engine that stays beside it "
                f"({human_bytes(self.engine.total)}){scorers} together take more than the {available} that {where} has "
                "available; lower sampling.engine.max_model_len or sampling.engine.kv_cache_memory_bytes"
            )


def memory_needs(config: Config, inputs: Inputs, engine: EngineMemory | None, *, gpu: bool) -> MemoryNeeds:
    """The estimates of a run, with its engine on a GPU (`gpu`, then `engine` is None) or on a CPU."""
    num_params = inputs.policy_info.num_params
    width = 4 if engine_dtype(config, gpu=gpu) == "float32" else 2
    return MemoryNeeds(
        num_params=num_params,
        context_length=inputs.context_length,
        lora=config.training.lora is not None,
        training=training_bytes(config, num_params),
        rewards=reward_bytes(config, inputs, gpu=gpu),
        engine=engine,
        engine_weights=width * num_params,
    )


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
    """Memory of the weights of all reward models, which stay loaded in their workers; functions are not counted."""
    total = 0
    for section, source in config.reward.sources().items():
        if section in inputs.reward_infos:
            half = source.dtype == "bfloat16" or (source.dtype == "auto" and gpu)
            total += inputs.reward_infos[section].num_params * (2 if half else 4)
    return total * config.cluster.scorer.replicas


def cpu_engine_memory(config: Config, inputs: Inputs) -> EngineMemory:
    """Memory of one engine on a CPU. Raises ModelError for a config that transformers does not know, ConfigError for a cache
    size that is no number."""
    from selfplay.inputs.models.engine_cache import cpu_cache_bytes
    from selfplay.inputs.models.sizes import load_config

    dtype = engine_dtype(config, gpu=False)
    model = load_config(inputs.policy.folder, trust_remote_code=config.policy.trust_remote_code)
    cache, least = cpu_cache_bytes(config.sampling.engine, model, inputs.context_length, dtype)
    return EngineMemory(inputs.policy_info.num_params * (4 if dtype == "float32" else 2), cache, least)
