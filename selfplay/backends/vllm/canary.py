"""Checks that the engine serves the trainer's final weights: the comparison after a weight change, as a pure function.

The trainer records its own greedy continuations with log-probs (`Canary`); the sampler continues the same prompts
and passes its results to `compare`. It detects weights that were not loaded, a stale prefix cache and a stale packed copy of a
layer. `differs` compares a live engine with a fresh one on the same weights, which shows a stale part that is smaller than what
two implementations may differ by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.core.engine_check import LARGEST_MEAN
from selfplay.core.protocols import Canary, CanaryPosition

MAX_TOP_LOGPS = 20


@dataclass(frozen=True, slots=True)
class EngineToken:
    """One position of the engine's greedy continuation: the token it took and the log-probs of its most likely tokens
    (natural log, temperature 1; the taken one among them)."""

    token_id: int
    logps: dict[int, float]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds on |engine - trainer| in nats: `each` for every compared log-prob, `mean` for the mean over taken tokens.
    `tie`: how far apart two candidates may lie where engine and trainer took different ones."""

    each: float
    mean: float
    tie: float


TOLERANCES = {
    # Two implementations in float32 agree to about 1e-5; candidates that may move by `each` swap within twice that.
    "float32": Tolerance(each=1e-3, mean=1e-3, tie=2e-3),
    # Single log-probs scatter by bf16's rounding of the logits (0.125 between 16 and 32), so only their mean is held; a
    # swap is forgiven up to one such step on either side.
    "bfloat16": Tolerance(each=math.inf, mean=LARGEST_MEAN, tie=0.25),
}


# One engine against another on the same weights: the same kernels, in batches that may be cut differently.
_SAME_ENGINE = {
    "float32": Tolerance(each=5e-5, mean=5e-5, tie=1e-4),
    "bfloat16": Tolerance(each=math.inf, mean=0.01, tie=0.25),
}
_NUM_PROBES, _PROBE_TOKENS, _PROBE_POSITIONS = 4, 80, 8


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """`miss` is empty when the engine passed, else the difference. `max_error` and `mean_error` are absolute differences of
    log-probs: over every id that both sides list, and over the taken tokens. `positions`: how many were compared."""

    miss: str
    max_error: float
    mean_error: float
    positions: int


def compare(
    canaries: Sequence[Canary], continuations: Sequence[Sequence[EngineToken]], tolerance: Tolerance
) -> CanaryVerdict:
    """Compare the engine's greedy continuations with the trainer's, position by position while the tokens agree.

    After the first divergence the contexts differ, so a prompt ends there: as a near-tie (both candidates listed on
    both sides and within `tolerance.tie` of each other on both) it is forgiven, otherwise it is a miss.
    Raises ValueError when there is not one non-empty continuation per canary.
    """
    if not canaries or len(canaries) != len(continuations):
        raise ValueError(f"{len(canaries)} canaries, {len(continuations)} continuations")
    all_errors: list[float] = []
    taken_errors: list[float] = []
    positions = 0
    misses: list[str] = []
    for number, (canary, continuation) in enumerate(zip(canaries, continuations, strict=True)):
        if not canary.positions or not continuation:
            raise ValueError(f"canary {number} has no position to compare")
        # The engine may have fewer: a prompt near the context's end leaves no room for all of them.
        for step, (seen, engine) in enumerate(zip(canary.positions, continuation, strict=False)):
            trainer = dict(zip(seen.top_ids, seen.top_logps, strict=True))
            taken = seen.top_ids[0]
            errors = {i: abs(engine.logps[i] - trainer[i]) for i in trainer.keys() & engine.logps.keys()}
            all_errors += errors.values()
            positions += 1
            where = f"canary {number}, position {step}"
            if any(math.isnan(value) for value in engine.logps.values()):
                misses.append(f"{where}: the engine's log-prob is nan")
                break
            if engine.token_id == taken:
                taken_errors.append(errors[taken])
                continue
            gaps = _gaps(engine.token_id, taken, trainer, engine.logps)
            if gaps is None or not max(gaps) <= tolerance.tie:
                apart = "not among its candidates" if gaps is None else f"{max(gaps):.3g} apart"
                misses.append(f"{where}: the engine takes token {engine.token_id}, the trainer {taken} ({apart})")
            else:
                taken_errors += [errors[taken], errors[engine.token_id]]
            break
    max_error = max(all_errors, default=math.nan)
    mean_error = sum(taken_errors) / len(taken_errors) if taken_errors else math.nan
    if not misses and not (max_error <= tolerance.each and mean_error <= tolerance.mean):
        misses.append(
            f"log-probs differ by {max_error:.3g} at most and {mean_error:.3g} in the mean "
            f"(allowed: {tolerance.each:g} and {tolerance.mean:g})"
        )
    return CanaryVerdict(misses[0] if misses else "", max_error, mean_error, positions)


def differs(live: Sequence[Sequence[EngineToken]], fresh: Sequence[Sequence[EngineToken]], dtype: str) -> str:
    """What tells a live engine's greedy continuations from those of a fresh engine on the same weights; empty if nothing."""
    right = [Canary([], [CanaryPosition(*_best_first(token)) for token in continuation]) for continuation in fresh]
    return compare(right, live, _SAME_ENGINE[dtype]).miss


def _best_first(token: EngineToken) -> tuple[list[int], list[float]]:
    others = sorted(token.logps.keys() - {token.token_id}, key=lambda i: -token.logps[i])
    ids = [token.token_id, *others]
    return ids, [token.logps[i] for i in ids]


def probes(vocab_size: int, max_model_len: int) -> list[Canary]:
    """Prompts to compare two engines on where the trainer gave none: ids spread over the vocabulary."""
    length = min(_PROBE_TOKENS, max(1, max_model_len // 2))
    blank = [CanaryPosition([0], [0.0])] * _PROBE_POSITIONS
    return [
        Canary([(7919 * (probe * length + place) + 1) % vocab_size for place in range(length)], blank)
        for probe in range(_NUM_PROBES)
    ]


def _gaps(
    engine_took: int, trainer_took: int, trainer: dict[int, float], engine: dict[int, float]
) -> tuple[float, float] | None:
    """Distance of the two candidates for the trainer and for the engine; None where one side does not list both."""
    if engine_took not in trainer or trainer_took not in engine:
        return None
    return trainer[trainer_took] - trainer[engine_took], engine[engine_took] - engine[trainer_took]
