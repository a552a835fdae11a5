"""What computed the numbers of a round where there was a choice, and why, as sentences."""

from __future__ import annotations

from selfplay.core.outcomes import EvaluateOutcome, LogprobsOutcome, RewardEngine, RoundOutcomes, ScoreOutcome


def reward_engines(outcomes: RoundOutcomes) -> dict[str, RewardEngine]:
    """What computed the rewards of each model in a round, by its section; in round 0 those of its evaluation."""
    found = outcomes.get(ScoreOutcome) or outcomes.get(EvaluateOutcome)
    return (found.reward_engines if found else None) or {}


def engine_lines(outcomes: RoundOutcomes) -> list[str]:
    """A sentence for the rewards of each model and one for the log-probs; none for what left no choice."""
    lines = [
        f"Rewards of {found.engine}{'' if section == 'reward' else f' ({section})'}: {found.reason}."
        for section, found in reward_engines(outcomes).items()
    ]
    logprobs = outcomes.get(LogprobsOutcome)
    if logprobs is not None and logprobs.source_reason:
        lines.append(f"Log-probs of the {logprobs.source}: {logprobs.source_reason}.")
    return lines
