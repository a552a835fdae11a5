"""What a run will do, counted before it starts: prompts, responses, pairs, optimizer steps, memory, disk.

What cannot be is refused here, with the sum."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from selfplay.config.schema import Config
from selfplay.errors import ConfigError, ResourceError
from selfplay.inputs import Inputs

FEW_STEPS = 10
# float32 weights, gradients and the two moments of Adam
TRAINING_BYTES_PER_PARAMETER = 16
LORA_BYTES_PER_PARAMETER = 4
LORA_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts are upper bounds: ties, drops and stops make them smaller. Bytes are of one process or of the whole run."""

    rounds: int
    prompts_per_round: int
    prompts_available: int
    bad_rows: int
    responses_per_round: int
    pairs_per_round: int
    kept_per_round: int
    optimizer_steps_per_round: int
    evaluation_prompts: int
    evaluation_responses: int
    policy_parameters: int
    training_bytes: int
    available_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    warnings: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        kept = f"{self.pairs_per_round} pairs, {self.kept_per_round} kept"
        return [
            f"{self.rounds} rounds: {self.prompts_per_round} prompts, {self.responses_per_round} responses, {kept}, "
            f"{self.optimizer_steps_per_round} optimizer steps a round (at most)",
            f"prompts: {self.prompts_available} usable"
            + (f", {self.bad_rows} bad rows (reported in round 1's prompts)" if self.bad_rows else "")
            + f"; evaluation: {self.evaluation_prompts} prompts, {self.evaluation_responses} responses each time",
            f"memory: training takes about {_bytes(self.training_bytes)} ({self.policy_parameters / 1e6:.1f} M parameters), "
            f"{_bytes(self.available_bytes)} are there; "
            f"disk: about {_bytes(self.disk_bytes)} of {_bytes(self.free_disk_bytes)} free",
            *(f"warning: {warning}" for warning in self.warnings),
        ]


def make_plan(config: Config, inputs: Inputs, run_dir: Path) -> Plan:
    """Count, and raise ConfigError/ResourceError for what cannot be."""
    per_round = config.prompts.per_round
    available = len(inputs.prompts.prompts)
    needed = per_round * (config.rounds if config.prompts.order == "fresh" else 1)
    if needed > available:
        fresh = config.prompts.order == "fresh"
        raise ConfigError(
            f"{config.rounds} rounds of {per_round} prompts need {needed} prompts; {config.prompts.source} has {available}"
            if fresh
            else f"prompts.per_round is {per_round}; {config.prompts.source} has {available} usable prompts",
            f"Set prompts.per_round to {available // config.rounds if fresh else available} or less"
            + (", fewer rounds, or prompts.order: same to ask the same prompts every round." if fresh else "."),
        )
    keep = config.selection.keep
    pairs = per_round
    kept = min(pairs, keep) if isinstance(keep, int) else round(keep * pairs)
    data = kept * (config.rounds if config.training.data == "accumulated" else 1)
    steps = math.ceil(data / config.training.batch_size) * config.training.epochs
    warnings = []
    if steps < FEW_STEPS:
        warnings.append(
            f"only {steps} optimizer steps a round: such a short schedule teaches little; lower training.batch_size, raise "
            "epochs, keep or prompts.per_round"
        )
    evaluation = config.evaluation
    evaluation_prompts = len(inputs.evaluation.prompts) if inputs.evaluation else 0
    evaluation_responses = 0
    if evaluation is not None:
        if evaluation.num_prompts is not None and evaluation.num_prompts > evaluation_prompts:
            raise ConfigError(
                f"evaluation.num_prompts is {evaluation.num_prompts}; {evaluation.source} has {evaluation_prompts} usable ones",
                f"Set it to {evaluation_prompts} or less, or leave it out for all.",
            )
        evaluation_prompts = evaluation.num_prompts or evaluation_prompts
        evaluation_responses = evaluation_prompts * (evaluation.num_responses + evaluation.greedy)
    parameters = inputs.policy_info.num_params
    per_parameter = LORA_BYTES_PER_PARAMETER + LORA_SHARE * 16 if config.training.lora else TRAINING_BYTES_PER_PARAMETER
    training = int(parameters * per_parameter)
    responses = per_round * config.sampling.num_responses
    row_bytes = 6 * config.sampling.max_tokens + 500
    policy_bytes = parameters * 4
    disk = (
        config.rounds * (policy_bytes + (responses + evaluation_responses) * row_bytes)
        + evaluation_responses * row_bytes
    )
    if config.training.checkpoint_every:
        disk += 2 * parameters * 12
    memory = available_memory()
    free = shutil.disk_usage(_existing(run_dir)).free
    if training > memory:
        raise ResourceError(
            f"training {parameters / 1e9:.2f} B parameters takes about {_bytes(training)} "
            f"({per_parameter:g} bytes a parameter: float32 weights, gradients and Adam's moments); {_bytes(memory)} are there",
            "Train adapters (training.lora), use a smaller policy or a machine with more memory.",
        )
    if disk > free:
        raise ResourceError(
            f"the run will write about {_bytes(disk)}; {_bytes(free)} are free at {_existing(run_dir)}",
            "Make room, lower rounds or prompts.per_round, or choose another --run-dir.",
        )
    return Plan(
        rounds=config.rounds,
        prompts_per_round=per_round,
        prompts_available=available,
        bad_rows=len(inputs.prompts.bad_rows),
        responses_per_round=responses,
        pairs_per_round=pairs,
        kept_per_round=kept,
        optimizer_steps_per_round=steps,
        evaluation_prompts=evaluation_prompts,
        evaluation_responses=evaluation_responses,
        policy_parameters=parameters,
        training_bytes=training,
        available_bytes=memory,
        disk_bytes=disk,
        free_disk_bytes=free,
        warnings=warnings,
    )


def available_memory() -> int:
    """Bytes a training could take: the largest GPU's memory where there is one, else what the kernel calls available, within
    the limit of this process's control group."""
    gpu = gpu_memory()
    if gpu:
        return max(gpu)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(values["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text))
    return available


def gpu_memory() -> list[int]:
    """Total bytes of each NVIDIA GPU, by nvidia-smi; empty where there is none."""
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return [int(line) << 20 for line in found.stdout.split() if line.isdigit()] if found.returncode == 0 else []


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit in ("B", "KB") else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
