"""How far two computations of the same numbers may differ: log-probs by engine, model and trainer, rewards by two engines.

The error of a log-prob is |difference| of a response's sum / its tokens, in nats; that of a reward is |difference|, relative to
the reward where that is above 1. In float32 two implementations agree to about 1e-5, so the largest error is held. In bfloat16
single responses scatter by rounding, and the mean is held. The trainer holds its own log-probs against the table by these bounds,
stage *logprobs* those of the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

LARGEST_FLOAT32 = 1e-4
_MEAN_BF16 = 0.02
# The largest mean error of log-probs that rounding explains, in any dtype; the canary holds bfloat16 to it too.
LARGEST_MEAN = 0.05
_REWARD_LARGEST_FLOAT32 = 1e-4
_REWARD_MEAN_BF16 = 0.02


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """An engine's numbers against those of the model on some responses: largest and mean error. `tolerance` is of the largest or
    of the mean error, as `compared` says ("largest" in float32, "mean" in bfloat16)."""

    num_responses: int
    error_max: float | None
    error_mean: float | None
    compared: str
    tolerance: float
    passed: bool

    @classmethod
    def of(cls, errors: Sequence[float], compared: str, tolerance: float) -> Self:
        """The check of these errors; without any it has not passed."""
        if not errors:
            return cls(0, None, None, compared, tolerance, passed=False)
        # a NaN must not be lost against a number
        largest = math.nan if any(map(math.isnan, errors)) else max(errors)
        mean = math.fsum(errors) / len(errors)
        passed = (largest if compared == "largest" else mean) <= tolerance
        return cls(len(errors), _finite(largest), _finite(mean), compared, tolerance, passed)

    @property
    def is_another_function(self) -> bool:
        """Whether log-probs differ by more than rounding: engine and model do not compute the same function."""
        return self.error_mean is not None and self.error_mean > LARGEST_MEAN

    def sentence(self, unit: str = "") -> str:
        """The result as the end of a sentence; `unit` follows the error."""
        error = self.error_max if self.compared == "largest" else self.error_mean
        seen = "a number that is not finite" if error is None else f"{error:.3g}{unit}"
        return f"differ by {seen} ({self.compared}; {self.tolerance:g} is allowed)"


def bound(precision: str) -> tuple[str, float]:
    """What is compared ("largest" or "mean") and what it may be, for a trainer's precision ("float32" or "bf16")."""
    return ("largest", LARGEST_FLOAT32) if precision == "float32" else ("mean", _MEAN_BF16)


def reward_bound(dtype: str) -> tuple[str, float]:
    """The same of rewards, for the dtype of a reward model ("float32" or "bfloat16")."""
    return ("largest", _REWARD_LARGEST_FLOAT32) if dtype == "float32" else ("mean", _REWARD_MEAN_BF16)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
