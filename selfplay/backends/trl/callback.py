"""Runs after every optimizer step (stage *train*): checks and reports its numbers, and seals its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from selfplay.backends.trl.checkpoints import PREFIX, remove_all_but_newest, seal
from selfplay.core.errors import DivergedError, Interrupted
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import StepMetrics, TrainLimits


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


def check_step(metrics: StepMetrics, limits: TrainLimits) -> None:
    """Raise DivergedError for a step whose loss or gradient norm is not finite, or exceeds its limit."""
    at = f"training stopped at optimizer step {metrics.step} of {metrics.num_steps}"
    figures = f"loss {metrics.loss:g}, gradient norm {metrics.grad_norm:g}, learning rate {metrics.learning_rate:g}"
    for name, value, limit in (
        ("loss", metrics.loss, limits.max_loss),
        ("gradient norm", metrics.grad_norm, limits.max_grad_norm),
    ):
        setting = f"gates.max_{'loss' if name == 'loss' else 'grad_norm'}"
        if not math.isfinite(value):
            why = f"the {name} is {value}"
        elif limit is not None and value > limit:
            why = f"the {name} is {value:g}; the limit {setting} is {limit:g}"
        else:
            continue
        loosen = "" if not math.isfinite(value) else f" If this value is expected, resume with another {setting}."
        raise DivergedError(
            f"{at}: {why} ({figures}); the starting policy is kept",
            f"Lower training.learning_rate or training.beta, or set training.trl.max_grad_norm lower.{loosen}",
        )


def check_weights(model: Any, metrics: StepMetrics) -> None:
    """Raise DivergedError for weights that are no numbers after a step whose loss and gradient were: the update itself may go
    beyond what a float holds."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            raise DivergedError(
                f"training stopped at optimizer step {metrics.step} of {metrics.num_steps}: values in {name} are not finite "
                f"(learning rate {metrics.learning_rate:g}); the starting policy is kept",
                "Lower training.learning_rate.",
            )


class StepCallback(TrainerCallback):
    """Reports each step to `progress`, stops at the first one that is not a number or beyond `limits`, seals each
    checkpoint, and stops after sealing one when `stop_file` has appeared.

    transformers logs a step before it saves it, so a loss, gradient or weight that is not finite never gets into a checkpoint.
    """

    def __init__(
        self,
        progress: Callable[[StepMetrics | str], None],
        job_fingerprint: str,
        stop_file: str = "",
        keep: int = 2,
        limits: TrainLimits | None = None,
    ) -> None:
        self._progress, self._fingerprint, self._keep = progress, job_fingerprint, keep
        self._limits = limits or TrainLimits()
        self._stop_file = Path(stop_file) if stop_file else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._stop_asked() and state.global_step < state.max_steps:
            raise Interrupted(
                f"training was stopped before step {state.global_step + 1} of {state.max_steps}; nothing is lost"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        beat()
        if state.global_step >= state.max_steps and state.global_step % args.save_steps:
            # transformers saves after the last step too; here the policy itself is written next
            control.should_save = False
        if self._stop_asked() and state.global_step < state.max_steps:
            control.should_save = True

    def _stop_asked(self) -> bool:
        return self._stop_file is not None and self._stop_file.exists()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], model: Any, **kwargs: Any) -> None:
        if "loss" not in logs:  # the summary at the end of a training
            return
        metrics = step_metrics(logs, state.global_step, state.max_steps)
        check_step(metrics, self._limits)
        if control.should_save:
            check_weights(model, metrics)
        self._progress(metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        seal(folder / f"{PREFIX}{state.global_step}", state.global_step, self._fingerprint)
        remove_all_but_newest(folder, self._keep)
        if self._stop_asked() and state.global_step < state.max_steps:
            raise Interrupted(f"training was stopped; step {state.global_step} of {state.max_steps} is kept")
