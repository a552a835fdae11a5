"""What a user should look at first in a round: each warning has a stable name, a sentence with the numbers and a hint.

They are derived from what the stages recorded; the thresholds are rules of thumb, defined here only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from selfplay.core.outcomes import (
    EvaluateOutcome,
    Evaluation,
    LogprobsOutcome,
    PairOutcome,
    PromptsOutcome,
    RoundOutcomes,
    SampleOutcome,
    ScoreOutcome,
    TrainOutcome,
)
from selfplay.inspect.documents.engines import reward_engines

TRUNCATED = 0.3
FEW_STEPS = 10
FEW_PAIRS = 0.5
LONGER = 1.3
REPEATED = 0.5
FEW_CHANGED = 0.01
SHOWN = 5


def round_warnings(outcomes: RoundOutcomes, previous: Evaluation | None) -> list[dict[str, str]]:
    """Warnings of a round from what its committed stages recorded and the evaluation of the round before (None: there is no
    such); rows of name, message, hint, the gravest first."""
    now = outcomes.evaluation()
    checks = (
        _over_optimised(now, previous) if now and previous else (),
        _judge(outcomes.get(ScoreOutcome), now),
        _training(outcomes.get(TrainOutcome)),
        _engine(outcomes),
        _rewards(outcomes),
        _logprobs(outcomes.get(LogprobsOutcome)),
        _prompts(outcomes.get(PromptsOutcome)),
        _responses(outcomes),
        _quarantine(outcomes),
        _pairs(outcomes),
        _drift(now, previous) if now else (),
    )
    return [{"name": name, "message": message, "hint": hint} for check in checks for name, message, hint in check]


Found = Iterator[tuple[str, str, str]]


def _over_optimised(now: Evaluation, previous: Evaluation) -> Found:
    reward = _difference(now.eval_reward_mean, previous.eval_reward_mean)
    gold = _difference(now.eval_gold_mean, previous.eval_gold_mean)
    if reward is not None and gold is not None and reward > 0 and gold <= 0:
        low, high = now.eval_gain_vs_previous_ci_low, now.eval_gain_vs_previous_ci_high
        interval = f", 95 % interval {low:+.3f} to {high:+.3f}" if low is not None and high is not None else ""
        yield (
            "over_optimised",
            f"held-out: the reward rose ({reward:+.3f}) while the gold reward did not ({gold:+.3f}{interval})",
            "The policy may be exploiting errors of the reward: compare responses, or lower the learning rate.",
        )


def _difference(now: float | None, before: float | None) -> float | None:
    return now - before if now is not None and before is not None else None


def _judge(score: ScoreOutcome | None, now: Evaluation | None) -> Found:
    found = (
        ("responses", score.gold_drop_reasons if score else {}, score.num_responses if score else None),
        ("held-out responses", now.eval_gold_drop_reasons if now else {}, None),
    )
    for what, reasons, count in found:
        if reasons:
            yield (
                "ungolded",
                f"{what} for which the gold judge failed{f', of {count}' if count else ''}: {_counts(reasons)}",
                "Gold means and win-rates leave them out: do not compare them with those of rounds where it answered.",
            )
    if score and score.gold_lacks:
        yield (
            "gold_not_on_training",
            f"the training responses have no gold reward: their prompts lack {', '.join(score.gold_lacks)}",
            "The held-out responses have one. To see both, add the columns to the training prompts of another run.",
        )


def _training(train: TrainOutcome | None) -> Found:
    if train is None:
        return
    if train.training is None:
        yield (
            "training_skipped",
            f"no pair was kept, so nothing was trained; the policy is that of round {train.policy_round}",
            "The funnel shows why responses were dropped: change what causes the most frequent reason.",
        )
        return
    if train.optimizer_steps < FEW_STEPS:
        yield (
            "few_steps",
            f"only {train.optimizer_steps} optimizer steps: such a short training changes little",
            "Lower training.batch_size, or raise epochs, selection.keep or prompts.per_round.",
        )
    if train.training.changed_fraction < FEW_CHANGED:
        yield (
            "few_weights_changed",
            f"only {train.training.changed_fraction:.2%} of the weights changed in the engine's dtype",
            "The updates are smaller than the dtype can show: raise the learning rate or the number of steps.",
        )


def _engine(outcomes: RoundOutcomes) -> Found:
    for outcome in (outcomes.get(SampleOutcome), outcomes.get(EvaluateOutcome)):
        rebuilt = [change for change in outcome.weight_changes if change.how == "rebuilt"] if outcome else []
        if outcome and rebuilt:
            yield (
                "engine_rebuilt",
                f"{outcome.stage}: {len(rebuilt)} engines refused the new weights and were rebuilt: {rebuilt[0].reason}",
                "The responses are of the right policy. If this happens in every round, report a bug.",
            )


def _rewards(outcomes: RoundOutcomes) -> Found:
    for section, found in reward_engines(outcomes).items():
        if found.check and not found.check.passed:
            yield (
                "engine_rewards_differ",
                found.reason,
                "transformers computed them all instead, so nothing is wrong with them. With "
                f"{section}.engine: transformers vLLM is not asked.",
            )


def _logprobs(logprobs: LogprobsOutcome | None) -> Found:
    if logprobs and logprobs.check and not logprobs.check.passed:
        yield (
            "engine_logprobs_differ",
            logprobs.source_reason,
            "The model passed over all candidates instead, so nothing is wrong with the pairs. With selection.logprobs.source: "
            "model the engine is not asked.",
        )


def _prompts(prompts: PromptsOutcome | None) -> Found:
    if prompts is None:
        return
    if prompts.drop_reasons:
        yield (
            "prompts_dropped",
            f"prompts dropped, of {prompts.num_prompts}: {_counts(prompts.drop_reasons)}",
            "The prompts table lists them with file and row.",
        )
    if prompts.num_bad_rows:
        first = prompts.bad_rows[0]
        yield (
            "bad_rows",
            f"{prompts.num_bad_rows} rows of the prompt file cannot be used; the first is "
            f"{first.file} row {first.row}: {first.reason}",
            "Fix the file for the next run; this run does not use them.",
        )


def _responses(outcomes: RoundOutcomes) -> Found:
    sample, pair = outcomes.get(SampleOutcome), outcomes.get(PairOutcome)
    if sample and sample.num_responses and sample.num_truncated > TRUNCATED * sample.num_responses:
        yield (
            "truncated",
            f"{sample.num_truncated / sample.num_responses:.0%} of the responses were cut at the length limit",
            "They are in no pair. Raise sampling.max_tokens, or ask for shorter responses.",
        )
    for gate in pair.gates_forced if pair else ():
        yield (
            "gate_forced",
            f"continued with --force, although {gate.message}",
            "The policy was trained on a round that looked like a collapse: compare its held-out responses before you continue.",
        )


def _quarantine(outcomes: RoundOutcomes) -> Found:
    sample, logprobs = outcomes.get(SampleOutcome), outcomes.get(LogprobsOutcome)
    score, evaluate = outcomes.get(ScoreOutcome), outcomes.get(EvaluateOutcome)
    for what, given_up in (
        ("prompts", sample.quarantined if sample else {}),
        ("held-out prompts", evaluate.eval_quarantined if evaluate else {}),
    ):
        if given_up:
            shown = ", ".join(sorted(given_up)[:SHOWN])
            yield (
                "quarantined",
                f"{len(given_up)} {what} have no responses, because each killed its engine twice: {shown}",
                "Look at their texts and at the sampler's logs in the attempts; the other prompts are not affected.",
            )
    if logprobs and (given_up := logprobs.quarantined):
        yield (
            "quarantined",
            f"{len(given_up)} responses have no log-probs, because each killed its worker twice: "
            f"{', '.join(sorted(given_up)[:SHOWN])}",
            "Their pairs are dropped with that reason. Look at their lengths and at that worker's logs in the attempts: the "
            "usual cause is a lack of memory.",
        )
    if score and score.drop_reasons:
        yield (
            "unscored",
            f"responses without a reward, of {score.num_responses}: {_counts(score.drop_reasons)}",
            "They are left out of pairs and means.",
        )


def _pairs(outcomes: RoundOutcomes) -> Found:
    prompts, pair, selection = outcomes.get(PromptsOutcome), outcomes.get(PairOutcome), outcomes.selection()
    admitted = prompts.num_admitted if prompts else 0
    # a prompt may have several pairs
    if pair and admitted and pair.num_prompts_paired < FEW_PAIRS * admitted:
        yield (
            "few_pairs",
            f"{pair.num_pairs} pairs from {admitted} prompts; in no pair: {_counts(pair.unused_reasons)}",
            "If most are ties or identical, raise num_responses or temperature; if most are truncated, raise max_tokens.",
        )
    if selection and selection.implicit_margin_all_zero:
        yield (
            "implicit_margin_zero",
            f"every implicit margin is 0, so {selection.metric} ranked without it",
            "Policy and reference were the same weights: use selection.implicit_margin: simpo, or training.reference: initial.",
        )


def _drift(now: Evaluation, previous: Evaluation | None) -> Found:
    cut, distinct = now.eval_truncated_fraction, now.eval_distinct_fraction
    if cut is not None and cut > TRUNCATED:
        yield (
            "evaluation_truncated",
            f"{cut:.0%} of the held-out responses were cut at the length limit",
            "Raise evaluation.max_tokens (or sampling.max_tokens): a cut answer is judged without its end.",
        )
    if distinct is not None and distinct < REPEATED:
        yield (
            "repeated_responses",
            f"only {distinct:.0%} of the held-out responses are distinct",
            "The policy may be collapsing: lower the learning rate, raise training.beta, or raise sampling.temperature.",
        )
    length, before = now.eval_num_tokens_mean, previous.eval_num_tokens_mean if previous else None
    if length and before and length > LONGER * before:
        yield (
            "longer_responses",
            f"held-out responses grew from {before:.1f} to {length:.1f} tokens in one round",
            "The reward may favour length: look at the length gap of the kept pairs.",
        )


def _counts(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons; errors of a user's function may be all different."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    more = f", and {sum(count for _, count in ordered[SHOWN:])} for other reasons" if len(ordered) > SHOWN else ""
    return ", ".join(f"{reason} {count}" for reason, count in ordered[:SHOWN]) + more
