"""Checks before each stage that its output fits on the disk, by an estimate.

The plan checks the same for a whole run before it starts, but a disk may fill up during a run. The figures are upper bounds:
every response has `sampling.max_tokens` tokens, and nothing is compressed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.config.schema import Config
from selfplay.core.errors import ResourceError
from selfplay.core.machine import human_bytes
from selfplay.inputs.prompts import PromptSource

if TYPE_CHECKING:
    from selfplay.run.stages.context import Context

# a row's ids, numbers and lengths; a text is counted apart
ROW_BYTES = 500
CHECKPOINT_BYTES = 12  # a parameter: float32 weights and Adam's two moments


def response_bytes(config: Config) -> int:
    """One response: token ids, text, and what else is in its row."""
    return 6 * config.sampling.max_tokens + ROW_BYTES


def prompt_bytes(source: PromptSource) -> int:
    """One prompt of a source on average: its messages, their token ids, and what else is in its row."""
    text = sum(len(message["content"].encode()) for prompt in source.prompts for message in prompt.messages)
    return ROW_BYTES + 3 * text // max(len(source.prompts), 1)


def policy_bytes(parameters: int, engine_dtype: str) -> int:
    """A policy: float32, and beside it in the engine's dtype where that is another one."""
    return parameters * (6 if engine_dtype == "bfloat16" else 4)


def checkpoint_bytes(config: Config, parameters: int) -> int:
    """A trainer's checkpoints at the most: those that stay, and one more while it is written."""
    if not config.training.checkpoint_every:
        return 0
    return (config.storage.keep_trainer_checkpoints + 1) * parameters * CHECKPOINT_BYTES


def stage_bytes(context: Context, round_number: int, stage: str) -> int:
    """Roughly what a stage writes in total."""
    config, inputs = context.config, context.inputs
    responses = config.prompts.per_round * config.sampling.num_responses
    if stage == "prompts":
        if round_number:
            return config.prompts.per_round * prompt_bytes(inputs.prompts)
        return len(inputs.evaluation.prompts) * prompt_bytes(inputs.evaluation) if inputs.evaluation else 0
    if stage == "sample":
        return responses * response_bytes(config)
    if stage == "select":  # a pair holds its prompt and two responses as text
        return config.prompts.per_round * (prompt_bytes(inputs.prompts) + 2 * response_bytes(config))
    if stage == "train":
        parameters = inputs.policy_info.num_params
        return policy_bytes(parameters, context.engine_dtype) + checkpoint_bytes(config, parameters)
    if stage == "evaluate":
        if config.evaluation is None or inputs.evaluation is None:
            return 0
        prompts = config.evaluation.num_prompts or len(inputs.evaluation.prompts)
        return prompts * (config.evaluation.num_responses + config.evaluation.greedy) * response_bytes(config)
    return responses * ROW_BYTES


def check_room(context: Context, round_number: int, stage: str) -> None:
    """Raise ResourceError if the rest of a stage will not fit. Shards that are written already are not counted again."""
    if not context.config.storage.check_free_space:
        return
    layout = context.store.layout
    kept = _bytes_in(layout.stage_work(round_number, stage))
    if stage == "train":
        kept += _bytes_in(layout.trainer_scratch(round_number))
    need = max(stage_bytes(context, round_number, stage) - kept, 0)
    free = shutil.disk_usage(layout.root).free
    if need > free:
        raise ResourceError(
            f"round {round_number} {stage} will write about {human_bytes(need)}; {human_bytes(free)} are free at {layout.root}",
            f"Free {human_bytes(need - free)} more, then `selfplay resume`. Committed work is safe. The figure is an upper "
            "estimate: storage.check_free_space=false skips this check.",
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
