"""The parts of a combined reward (`reward.parts`) by round."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.core.outcomes import EvaluateOutcome, RoundOutcomes, ScoreOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOfRound:
    """One part in one round, in its own unit; None is what the round does not have. Training numbers are over the training
    responses, held-out numbers of the policy after the round; `eval_change` is against the round before, and `eval_std` is that
    of the evaluation that normalises the part (round 0)."""

    name: str
    weight: float
    train_mean: float | None
    train_std: float | None
    train_num_scored: int | None
    eval_mean: float | None
    eval_greedy_mean: float | None
    eval_std: float | None
    eval_change: float | None


def parts_of_round(outcomes: RoundOutcomes, before: EvaluateOutcome | None) -> list[PartOfRound]:
    """The parts, by name; none where the run has one reward. `before` is the evaluation of the round before."""
    score, evaluate = outcomes.get(ScoreOutcome), outcomes.get(EvaluateOutcome)
    trained = score.combined.reward_parts if score is not None and score.combined is not None else {}
    normal = evaluate.combined.reward_parts if evaluate is not None and evaluate.combined is not None else {}
    held_out, earlier = (
        (found.evaluation.eval_reward_parts if found is not None and found.evaluation is not None else None) or {}
        for found in (evaluate, before)
    )
    found = []
    for name in sorted({*trained, *normal}):
        train, held, last = trained.get(name), held_out.get(name), earlier.get(name)
        now, then = (part.mean if part is not None else None for part in (held, last))
        found.append(
            PartOfRound(
                name=name,
                weight=(train or normal[name]).weight,
                train_mean=train.mean if train is not None and train.num_scored else None,
                train_std=train.std if train is not None and train.num_scored else None,
                train_num_scored=train.num_scored if train is not None else None,
                eval_mean=now,
                eval_greedy_mean=held.greedy_mean if held is not None else None,
                eval_std=normal[name].std if name in normal else None,
                eval_change=now - then if now is not None and then is not None else None,
            )
        )
    return found
