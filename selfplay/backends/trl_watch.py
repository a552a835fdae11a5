"""What happens after every optimizer step of a training (stage *train*): its numbers are checked and
reported, its checkpoint sealed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from selfplay.backends.checkpoints import PREFIX, remove_all_but_newest, seal
from selfplay.errors import BackendError, Interrupted
from selfplay.protocols import StepMetrics


def step_metrics(log: Mapping[str, Any], step: int, num_steps: int) -> StepMetrics:
    """One of TRL's log lines as ours."""
    return StepMetrics(
        step=step,
        num_steps=num_steps,
        loss=float(log["loss"]),
        learning_rate=float(log["learning_rate"]),
        grad_norm=float(log["grad_norm"]),
        rewards_accuracy=float(log["rewards/accuracies"]),
        rewards_margin=float(log["rewards/margins"]),
    )


class Watch(TrainerCallback):
    """Reports each step to `progress`, stops at the first one that is not a number, seals each checkpoint, and
    stops after sealing one when `stop_file` has appeared.

    transformers logs a step before it saves it, so weights that are not numbers never get into a checkpoint.
    """

    def __init__(
        self, progress: Callable[[StepMetrics], None], job_fingerprint: str, stop_file: str = "", keep: int = 2
    ) -> None:
        self._progress, self._fingerprint, self._keep = progress, job_fingerprint, keep
        self._stop_file = Path(stop_file) if stop_file else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._stop_asked() and state.global_step < state.max_steps:
            control.should_save = True

    def _stop_asked(self) -> bool:
        return self._stop_file is not None and self._stop_file.exists()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" not in logs:  # the summary at the end of a training
            return
        metrics = step_metrics(logs, state.global_step, state.max_steps)
        for name, value in (("loss", metrics.loss), ("gradient norm", metrics.grad_norm)):
            if not math.isfinite(value):
                raise BackendError(
                    f"training stopped at optimizer step {metrics.step} of {metrics.num_steps}: the {name} is {value}; "
                    "the starting policy is kept",
                    "Lower training.learning_rate or training.beta, or set training.trl.max_grad_norm lower.",
                )
        self._progress(metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        seal(folder / f"{PREFIX}{state.global_step}", state.global_step, self._fingerprint)
        remove_all_but_newest(folder, self._keep)
        if self._stop_asked() and state.global_step < state.max_steps:
            raise Interrupted(f"training stopped as asked; step {state.global_step} of {state.max_steps} is kept")
