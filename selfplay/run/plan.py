"""What a run will do, estimated before it starts: prompts, responses, pairs, optimizer steps, memory, disk.

What is certain to fail is refused here. On a resume only the remaining work counts. The memory is that of this machine. Workers
may run on others, so it only gives warnings, and `run/devices.py` checks again when the workers have reported their devices.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from selfplay.config.device_shares import own_devices
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError, ResourceError
from selfplay.core.format import human_bytes
from selfplay.core.machine import DeviceFacts, this_device
from selfplay.core.paths import nearest_existing
from selfplay.inputs.prompt_repeats import repeats
from selfplay.inputs.prompts import PromptSource
from selfplay.inputs.resolve import Inputs
from selfplay.run.disk_estimate import checkpoint_bytes, policy_bytes, response_bytes
from selfplay.run.memory_estimate import MemoryNeeds, cpu_engine_memory, engine_dtype, memory_needs
from selfplay.run.overlap import UNKNOWN, overlap_of
from selfplay.selection.pair_rules import pairs_per_prompt

_LESS_DISK = "Free disk space, lower rounds or prompts.per_round, or choose another --run-dir. "
FEW_STEPS = 10
SHOWN_BAD_ROWS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts are upper bounds: ties, drops and stops make them smaller. Bytes of memory are those of one process:
    `engine_bytes` of an engine on a CPU (0 on a GPU, where it takes the share that it is given), `reward_bytes` of the
    weights of all reward models together. `disk_bytes` is what the remaining rounds add at their peak, `final_disk_bytes`
    what stays of it after `storage.keep_policies` has deleted the rest. `overlap` says which stages work side by side.
    `bad_rows_shown` names the first invalid rows of both sources, `notes` says what was assumed of their columns."""

    rounds: int
    rounds_done: int
    prompts_per_round: int
    prompts_available: int
    bad_rows: int
    evaluation_bad_rows: int
    bad_rows_shown: list[str]
    responses_per_round: int
    pairs_per_round: int
    kept_per_round: int
    optimizer_steps_per_round: int
    evaluation_prompts: int
    evaluation_responses: int
    policy_parameters: int
    training_bytes: int
    engine_bytes: int
    reward_bytes: int
    available_bytes: int
    disk_bytes: int
    final_disk_bytes: int
    free_disk_bytes: int
    overlap: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As text."""
        kept = f"{self.pairs_per_round} pairs, {self.kept_per_round} kept"
        engine = f", the engine {human_bytes(self.engine_bytes)} (weights and cache)" if self.engine_bytes else ""
        rewards = f", reward models {human_bytes(self.reward_bytes)} (weights)" if self.reward_bytes else ""
        done = f" ({self.rounds_done} of them done)" if self.rounds_done else ""
        return [
            f"{self.rounds} rounds{done}: {self.prompts_per_round} prompts, {self.responses_per_round} responses, {kept}, "
            f"{self.optimizer_steps_per_round} optimizer steps a round (at most)",
            f"prompts: {self.prompts_available} usable{_bad(self.bad_rows)}; evaluation: {self.evaluation_prompts} prompts"
            f"{_bad(self.evaluation_bad_rows)}, {self.evaluation_responses} responses each time",
            *(f"bad row: {row}" for row in self.bad_rows_shown),
            f"memory: training takes about {human_bytes(self.training_bytes)} "
            f"({self.policy_parameters / 1e6:.1f} M parameters){engine}{rewards}, {human_bytes(self.available_bytes)} available; "
            f"disk: about {human_bytes(self.disk_bytes)} at the peak, {human_bytes(self.final_disk_bytes)} in the end, "
            f"{human_bytes(self.free_disk_bytes)} free",
            f"order: {self.overlap}",
            *(f"note: {note}" for note in self.notes),
            *(f"warning: {warning}" for warning in self.warnings),
        ]


def make_plan(
    config: Config,
    inputs: Inputs,
    run_dir: Path,
    rounds_done: int = 0,
    *,
    force: bool = False,
    begun: bool = False,
    device: DeviceFacts | None = None,
) -> Plan:
    """The plan of a run on `device` (default: this machine). `rounds_done`: complete rounds of a run that is resumed or forked,
    which has `begun`: hints then name only settings that it can change.

    Raises ConfigError for counts that contradict each other, ResourceError for a lack of memory or disk, unless `force` or all
    rounds are complete.
    """
    available = len(inputs.prompts.prompts)
    _check_prompts(config, available, rounds_done, begun=begun)
    evaluation_prompts, evaluation_responses = _evaluation(config, inputs)
    per_round = config.prompts.per_round
    keep = config.selection.keep
    of_prompt = pairs_per_prompt(config.pairs.rules(), config.sampling.num_responses)
    pairs = per_round * min(of_prompt, config.selection.max_per_prompt or of_prompt)
    kept = min(pairs, keep) if isinstance(keep, int) else round(keep * pairs)
    data = kept * (config.rounds if config.training.data == "accumulated" else 1)
    steps = config.training.max_steps or math.ceil(data / config.training.batch_size) * config.training.epochs
    responses = per_round * config.sampling.num_responses
    parameters = inputs.policy_info.num_params
    device = device or this_device()
    gpu = device.has_gpu
    needs = memory_needs(config, inputs, None if gpu else cpu_engine_memory(config, inputs), gpu=gpu)
    disk, final = _disk_bytes(config, parameters, responses, evaluation_responses, rounds_done, gpu=gpu)
    free = shutil.disk_usage(nearest_existing(run_dir)).free
    if rounds_done < config.rounds and not force:
        _check_memory(config, needs, device)
        if disk > free and config.storage.check_free_space:
            raise ResourceError(
                f"the run will write about {human_bytes(disk)}; {human_bytes(free)} are free at {nearest_existing(run_dir)}",
                ("Free disk space, or lower rounds. " if begun else _LESS_DISK)
                + "The figure is an upper estimate: storage.check_free_space=false skips this check.",
            )
    return Plan(
        rounds=config.rounds,
        rounds_done=min(rounds_done, config.rounds),
        prompts_per_round=per_round,
        prompts_available=available,
        bad_rows=inputs.prompts.bad_rows.count,
        evaluation_bad_rows=inputs.evaluation.bad_rows.count if inputs.evaluation else 0,
        bad_rows_shown=[*_bad_lines(inputs.prompts, 1), *_bad_lines(inputs.evaluation, 0)],
        responses_per_round=responses,
        pairs_per_round=pairs,
        kept_per_round=kept,
        optimizer_steps_per_round=steps,
        evaluation_prompts=evaluation_prompts,
        evaluation_responses=evaluation_responses,
        policy_parameters=parameters,
        training_bytes=needs.training,
        engine_bytes=needs.engine.total if needs.engine else 0,
        reward_bytes=needs.rewards,
        available_bytes=device.available,
        disk_bytes=disk,
        final_disk_bytes=final,
        free_disk_bytes=free,
        overlap=_order(config, device),
        notes=[
            f"{name}: {note}"
            for name, source in (("prompts.source", inputs.prompts), ("evaluation.source", inputs.evaluation))
            for note in (source.notes if source else ())
        ]
        + list(inputs.notes),
        warnings=list(_warnings(config, inputs, steps, needs, device)),
    )


def _order(config: Config, device: DeviceFacts) -> str:
    """Which stages work side by side, as far as the devices are known."""
    if config.cluster.address is not None and config.cluster.overlap == "auto":
        return UNKNOWN
    own = own_devices(config.cluster, len(device.gpus), len(config.reward.sources()))
    return overlap_of(config.cluster, own).text


def _check_prompts(config: Config, available: int, rounds_done: int, *, begun: bool) -> None:
    per_round, source = config.prompts.per_round, config.prompts.source
    if config.prompts.order == "same":
        if per_round > available:
            raise ConfigError(
                f"prompts.per_round is {per_round}; {source} has {available} usable prompts",
                f"Set prompts.per_round to {available} or less.",
            )
        return
    possible = available // per_round
    if config.rounds <= possible:
        return
    enough = f"enough for {possible} round{'' if possible == 1 else 's'}"
    ways = [f"rounds={possible} or less"] if possible else []
    if begun:
        over = f" ({rounds_done} are done)" if rounds_done else ""
        hint = f"A run that has begun keeps its prompts: set rounds={possible} or less{over}."
    else:
        if fewer := available // config.rounds:
            ways.append(f"prompts.per_round={fewer} or less")
        if available >= per_round:
            ways.append("prompts.order=same, which uses the same prompts in every round")
        hint = f"Set {', or '.join(ways)}." if ways else "Give more prompts."
    raise ConfigError(
        f"{config.rounds} rounds of {per_round} prompts need {per_round * config.rounds} prompts; {source} has {available}, "
        f"{enough}",
        hint,
    )


def _evaluation(config: Config, inputs: Inputs) -> tuple[int, int]:
    """Prompts of one evaluation and the responses to them."""
    evaluation = config.evaluation
    if evaluation is None or inputs.evaluation is None:
        return 0, 0
    available = len(inputs.evaluation.prompts)
    if evaluation.num_prompts is not None and evaluation.num_prompts > available:
        raise ConfigError(
            f"evaluation.num_prompts is {evaluation.num_prompts}; {evaluation.source} has {available} usable ones",
            f"Set it to {available} or less, or remove it to use all.",
        )
    prompts = evaluation.num_prompts or available
    return prompts, prompts * (evaluation.num_responses + evaluation.greedy)


def _disk_bytes(
    config: Config, parameters: int, responses: int, evaluation_responses: int, rounds_done: int, *, gpu: bool
) -> tuple[int, int]:
    """What the rounds that are left add, at their peak and in the end: tables, the policies that stay (the best may be none of
    the newest), and at the peak the newest policy and the trainer's checkpoints beside those."""
    left = max(config.rounds - rounds_done, 0)
    if left == 0:
        return 0, 0
    row = response_bytes(config)
    policy = policy_bytes(parameters, engine_dtype(config, gpu=gpu))
    tables = left * (responses + evaluation_responses) * row
    if rounds_done == 0:
        tables += evaluation_responses * row
    before, last, end = (_policies_at_rest(config, done) for done in (rounds_done, config.rounds - 1, config.rounds))
    peak = (last + 1 - before) * policy + checkpoint_bytes(config, parameters)
    return tables + peak, tables + (end - before) * policy


def _policies_at_rest(config: Config, rounds_done: int) -> int:
    """Policies on disk after so many rounds."""
    keep = config.storage.num_policies
    return rounds_done if keep is None else min(rounds_done, keep + 1)


def _check_memory(config: Config, needs: MemoryNeeds, device: DeviceFacts) -> None:
    """Raise ResourceError for weights that no device of this machine can hold. On a joined cluster nothing is known yet."""
    largest = max([device.cpu_total, *device.gpus])
    if config.cluster.address is None and needs.trainer_weights > largest:
        raise ResourceError(
            f"the weights of {needs.num_params / 1e9:.2f} B parameters alone take {human_bytes(needs.trainer_weights)} in the "
            f"trainer (float32); the largest device of this machine has {human_bytes(largest)}",
            "Use a machine with more memory, or a smaller policy in another run. --force starts anyway.",
        )


def _warnings(config: Config, inputs: Inputs, steps: int, needs: MemoryNeeds, device: DeviceFacts) -> Iterator[str]:
    if steps < FEW_STEPS:
        yield (
            f"only {steps} optimizer steps a round: such a short training changes little; lower training.batch_size, or raise "
            "epochs (or max_steps), keep or prompts.per_round"
        )
    yield from inputs.warnings
    if config.cluster.address is None:
        yield from needs.warnings(device, "this machine")
    yield from repeats(inputs.prompts.prompts, None if inputs.evaluation is None else inputs.evaluation.prompts)
    if inputs.gold_lacks:
        yield (
            f"the training responses get no gold reward: the judge needs {', '.join(inputs.gold_lacks)}, and "
            "prompts.source has no such column (the held-out responses get one)"
        )


def _bad(count: int) -> str:
    return f", {count} bad rows" if count else ""


def _bad_lines(source: PromptSource | None, round_number: int) -> Iterator[str]:
    """The first bad rows of each reason of a source, and in which round's prompts the others are listed."""
    if source is None:
        return
    shown = source.bad_rows.first(SHOWN_BAD_ROWS)
    yield from map(str, shown)
    if more := source.bad_rows.count - len(shown):
        yield f"... and {more} more (the first of each reason are in the metrics of round {round_number}'s prompts)"
    if source.bad_rows.count > len(source.prompts):
        yield f"most rows are bad ({source.bad_rows.count:,}, {len(source.prompts):,} are prompts): check `column`"
