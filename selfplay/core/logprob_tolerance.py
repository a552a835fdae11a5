"""How far two computations of the same log-probs may differ: |difference| of a response's sum / its tokens, in nats.

In float32 two implementations agree to about 1e-5, so the largest error is held. In bfloat16 single responses scatter by
rounding, and the mean is held. The trainer holds its own log-probs against the table by these bounds, and stage *logprobs*
those of the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_FLOAT32 = 1e-4
MEAN_BF16 = 0.02


@dataclass(frozen=True, slots=True)
class LogprobsCheck:
    """The engine's log-probs against those of the model on some responses: |difference| / tokens of a response, largest and mean.
    `tolerance` is of the largest or of the mean error, as `compared` says ("largest" in float32, "mean" in bfloat16)."""

    num_responses: int
    error_max: float | None
    error_mean: float | None
    compared: str
    tolerance: float
    passed: bool


def bound(precision: str) -> tuple[str, float]:
    """What is compared ("largest" or "mean") and what it may be, for a trainer's precision ("float32" or "bf16")."""
    return ("largest", LARGEST_FLOAT32) if precision == "float32" else ("mean", MEAN_BF16)


def largest_and_mean(errors: Sequence[float]) -> tuple[float, float]:
    """Of one or more errors; a NaN among them is not lost against a number."""
    largest = math.nan if any(map(math.isnan, errors)) else max(errors)
    return largest, math.fsum(errors) / len(errors)
