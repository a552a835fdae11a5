"""What follows from the devices on which a run's workers started: dtypes, precision, and whether the models fit.

The facts come from the workers, never from the driver's machine, which may be another one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import ResourceError
from selfplay.core.format import human_bytes
from selfplay.core.machine import DeviceFacts
from selfplay.core.pool import Workers
from selfplay.inputs.resolve import Inputs
from selfplay.run.memory_estimate import MemoryNeeds, cpu_engine_memory, memory_needs


@dataclass(frozen=True, slots=True)
class RunDevices:
    """The facts of each role's workers, and what `auto` means on them. `engine_dtype` is "float32" or "bfloat16", `precision`
    (of the trainer) "float32" or "bf16"."""

    roles: Mapping[str, list[DeviceFacts]]
    engine_dtype: str
    precision: str

    def document(self) -> dict[str, Any]:
        """As JSON: a list of facts for each role."""
        return {role: [asdict(facts) for facts in workers] for role, workers in self.roles.items()}


class LazyDevices:
    """The devices of a run, found when a stage first needs to know: until then the workers start while others work."""

    def __init__(self, find: Callable[[], RunDevices]) -> None:
        self._find = functools.cache(find)

    @property
    def engine_dtype(self) -> str:
        """See `RunDevices`."""
        return self._find().engine_dtype

    @property
    def precision(self) -> str:
        """See `RunDevices`."""
        return self._find().precision


def find_devices(config: Config, workers: Workers) -> RunDevices:
    """Wait until all workers have started, and resolve `auto` by what they report. The log-probs' model gets the dtype of the
    trainer's precision, whose own log-probs must agree with its results.

    Raises ResourceError if workers of one role that must give equal results are on different kinds of devices.
    """
    roles = {role: pool.devices() for role, pool in workers.by_role().items()}
    auto = {"sampler": config.policy.dtype == "auto", "logprobs": config.training.precision == "auto"}
    for role, is_auto in auto.items():
        if is_auto and len({facts.has_gpu for facts in roles[role]}) > 1:
            setting = "policy.dtype" if role == "sampler" else "training.precision"
            raise ResourceError(
                f"some {role} workers have a GPU and others do not, so `{setting}: auto` would mix dtypes",
                f"Set {setting}, or set cluster.{role}.num_gpus so that all workers get the same kind of device.",
            )
    engine_dtype = config.policy.dtype
    if engine_dtype == "auto":
        engine_dtype = "bfloat16" if roles["sampler"][0].has_gpu else "float32"
    precision = config.training.precision
    if precision == "auto":
        precision = "bf16" if roles["trainer"][0].has_gpu else "float32"
        workers.logprobs.broadcast("use_dtype", "bfloat16" if precision == "bf16" else "float32")
    return RunDevices(roles, engine_dtype, precision)


def check_memory(config: Config, inputs: Inputs, devices: RunDevices, *, force: bool) -> list[str]:
    """Warnings about models that may not fit the devices of their workers.

    Raises ResourceError if the weights alone exceed a worker's device, unless `force`.
    """
    sampler, trainer = devices.roles["sampler"][0], devices.roles["trainer"][0]
    engine = None if sampler.has_gpu else cpu_engine_memory(config, inputs)
    needs = memory_needs(config, inputs, engine, gpu=sampler.has_gpu)
    problems = list(_certain(needs, {"trainer": trainer, "sampler": sampler}))
    if problems and not force:
        raise ResourceError(
            "; ".join(problems),
            "Use a smaller policy or a device with more memory. `selfplay run` and `selfplay resume` start anyway with --force.",
        )
    return [*problems, *needs.warnings(trainer, "the trainer's device")]


def _certain(needs: MemoryNeeds, devices: Mapping[str, DeviceFacts]) -> Iterator[str]:
    for role, weights in (("trainer", needs.trainer_weights), ("sampler", needs.engine_weights)):
        facts = devices[role]
        # an engine may spread its weights over the GPUs of its worker
        total = sum(facts.gpus) if role == "sampler" and facts.has_gpu else facts.total
        if weights > total:
            yield (
                f"the weights alone take {human_bytes(weights)}; the {role}'s device on {devices[role].node} has "
                f"{human_bytes(total)}"
            )
