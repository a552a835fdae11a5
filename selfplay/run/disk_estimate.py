"""Checks before each stage that its output fits on the disk, by an estimate.

The plan checks the same for a whole run before it starts, but a disk may fill up during a run. The figures are upper bounds:
every response has `sampling.max_tokens` tokens, and nothing is compressed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc

from selfplay.config.schema import Config
from selfplay.core.errors import ResourceError
from selfplay.core.format import human_bytes
from selfplay.core.stages import DiskSizes, stage_named
from selfplay.inputs.prompts import PromptSource
from selfplay.inputs.resolve import Inputs
from selfplay.store.run import Store

# a row's ids, numbers and lengths; a text is counted apart
ROW_BYTES = 500
CHECKPOINT_BYTES = 12  # a parameter: float32 weights and Adam's two moments


def response_bytes(config: Config) -> int:
    """One response: token ids, text, and what else is in its row."""
    return 6 * config.sampling.max_tokens + ROW_BYTES


def prompt_bytes(source: PromptSource) -> int:
    """One prompt of a source on average: its messages, their token ids, and what else is in its row."""
    # asked before each stage, of all prompts
    contents = pc.struct_field(pc.list_flatten(source.prompts.table["messages"]), "content")
    text = pc.sum(pc.binary_length(contents), min_count=0).as_py()
    return int(ROW_BYTES + 3 * text // max(len(source.prompts), 1))


def policy_bytes(parameters: int, engine_dtype: str) -> int:
    """A policy: float32, and beside it in the engine's dtype where that is another one."""
    return parameters * (6 if engine_dtype == "bfloat16" else 4)


def checkpoint_bytes(config: Config, parameters: int) -> int:
    """A trainer's checkpoints at the most: those that stay, and one more while it is written."""
    if not config.training.checkpoint_every:
        return 0
    return (config.storage.keep_trainer_checkpoints + 1) * parameters * CHECKPOINT_BYTES


def disk_sizes(config: Config, inputs: Inputs, engine_dtype: str) -> DiskSizes:
    """What the table of stages estimates with."""
    evaluation_prompts, evaluation_responses, evaluation_prompt_bytes = 0, 0, 0
    if config.evaluation is not None and inputs.evaluation is not None:
        evaluation_prompts = len(inputs.evaluation.prompts)
        asked = config.evaluation.num_prompts or evaluation_prompts
        evaluation_responses = asked * (config.evaluation.num_responses + config.evaluation.greedy)
        evaluation_prompt_bytes = prompt_bytes(inputs.evaluation)
    parameters = inputs.policy_info.num_params
    return DiskSizes(
        num_prompts=config.prompts.per_round,
        num_responses=config.prompts.per_round * config.sampling.num_responses,
        num_evaluation_prompts=evaluation_prompts,
        num_evaluation_responses=evaluation_responses,
        prompt_bytes=prompt_bytes(inputs.prompts),
        evaluation_prompt_bytes=evaluation_prompt_bytes,
        response_bytes=response_bytes(config),
        row_bytes=ROW_BYTES,
        policy_bytes=policy_bytes(parameters, engine_dtype),
        checkpoint_bytes=checkpoint_bytes(config, parameters),
    )


def stage_bytes(config: Config, inputs: Inputs, engine_dtype: str, round_number: int, stage: str) -> int:
    """Estimated bytes that a stage writes in all."""
    return stage_named(stage).disk_bytes(disk_sizes(config, inputs, engine_dtype), round_number)


def check_room(
    store: Store,
    config: Config,
    inputs: Inputs,
    engine_dtype: str,
    round_number: int,
    stage: str,
    *,
    force: bool = False,
) -> None:
    """Raise ResourceError where what is left of a stage will not fit, unless `force`. Shards that are kept already are not
    counted again."""
    if force or not config.storage.check_free_space:
        return
    layout = store.layout
    kept = _bytes_in(layout.stage_work(round_number, stage))
    if stage == "train":
        kept += _bytes_in(layout.trainer_scratch(round_number))
    need = max(stage_bytes(config, inputs, engine_dtype, round_number, stage) - kept, 0)
    free = shutil.disk_usage(layout.root).free
    if need > free:
        raise ResourceError(
            f"round {round_number} {stage} will write about {human_bytes(need)}; {human_bytes(free)} are free at {layout.root}",
            f"Free {human_bytes(need - free)} more, then `selfplay resume`. Committed work is safe. The figure is an upper "
            "estimate: storage.check_free_space=false skips this check.",
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
