"""Checks whether a training (stage *train*) ruined the policy without NaN.

Three bounds, each far from what a training that works comes near. The norm of the change over that of the starting policy is at
most `TrainLimits.max_update` (DPO at usual rates: below 0.05). The mean log-prob of a token of the chosen responses, which are
the policy's own, falls by at most half of log(V), V being the size of the vocabulary: a policy that falls from certainty to
guessing falls by log(V). And it is not certain of every token: then it has one answer to each prompt, and temperature does
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.core.errors import RuinedPolicyError
from selfplay.core.protocols import Canary, TrainJob

# Part of log(V) by which the mean log-prob of a token may fall.
MAX_FALL = 0.5
# Mean negative log-prob (nats) of the most likely tokens of the canaries, below which the policy is certain of all of them. It is
# a lower bound of their entropy.
MIN_UNCERTAINTY = 1e-6


@dataclass(frozen=True, slots=True)
class Condition:
    """`logp_before` and `logp_after`: mean log-prob of a token of the chosen responses of the checked pairs (nats).
    `update_ratio`: L2 norm of the change over that of the starting policy. `uncertainty`: see MIN_UNCERTAINTY (None: there are
    no canaries)."""

    logp_before: float
    logp_after: float
    update_ratio: float
    uncertainty: float | None


def uncertainty(canaries: Sequence[Canary]) -> float | None:
    """Mean negative log-prob of the most likely token over all positions of the canaries."""
    best = [position.top_logps[0] for canary in canaries for position in canary.positions]
    return -math.fsum(best) / len(best) if best else None


def check_policy(found: Condition, job: TrainJob, vocab_size: int) -> None:
    """Raise RuinedPolicyError for a policy beyond one of the bounds; the message has all numbers."""
    fall, allowed = found.logp_before - found.logp_after, MAX_FALL * math.log(vocab_size)
    limit = job.limits.max_update
    why = []
    if not fall <= allowed:
        why.append(
            f"the mean log-prob of a token of the chosen responses fell from {found.logp_before:.3g} to {found.logp_after:.3g}"
            f" (at most by {allowed:.3g})"
        )
    if found.uncertainty is not None and not found.uncertainty >= MIN_UNCERTAINTY:
        why.append(f"it gives every token a probability of almost 1 (entropy of about {found.uncertainty:.1g} nats)")
    loosen = ""
    if limit is not None and not found.update_ratio <= limit:
        why.append(
            f"the change of its weights has {found.update_ratio:.3g} times the norm of the starting policy; the limit "
            f"gates.max_update is {limit:g}"
        )
        loosen = " If such a change is expected, resume with another gates.max_update." if len(why) == 1 else ""
    if why:
        raise RuinedPolicyError(
            f"training ruined the policy: {'; '.join(why)} (learning rate {job.learning_rate:g}); the starting policy is kept",
            f"Lower training.learning_rate, or train for fewer steps.{loosen}",
        )
