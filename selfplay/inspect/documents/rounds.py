"""The numbers of every round, from what the stages said of themselves when they were committed (`rounds`). No table
is read."""

from __future__ import annotations

from typing import Any

from selfplay.inspect.reading import SCHEMA_VERSION, finite
from selfplay.store.run import Store
from selfplay.store.run_state import metrics_if_committed, stages_of

# column of the row -> (stage, metric)
_SOURCES = {
    "num_prompts": ("prompts", "num_prompts"),
    "num_responses": ("sample", "num_responses"),
    "num_pairs": ("pair", "num_pairs"),
    "num_kept": ("select", "num_kept"),
    "num_tokens": ("sample", "num_tokens"),
    "num_truncated": ("sample", "num_truncated"),
    "num_duplicates": ("sample", "num_duplicates"),
    "explicit_margin_mean": ("select", "explicit_margin_mean"),
    "implicit_margin_abs_mean": ("select", "implicit_margin_abs_mean"),
    "length_gap_kept_mean": ("select", "length_gap_kept_mean"),
    "train_reward_mean": ("score", "reward_mean"),
    "eval_reward_mean": ("evaluate", "eval_reward_mean"),
    "eval_gold_mean": ("evaluate", "eval_gold_mean"),
    "eval_gold_ci_low": ("evaluate", "eval_gold_ci_low"),
    "eval_gold_ci_high": ("evaluate", "eval_gold_ci_high"),
    "eval_gold_greedy_mean": ("evaluate", "eval_gold_greedy_mean"),
    "eval_win_rate_vs_initial": ("evaluate", "eval_win_rate_vs_initial"),
    "eval_win_rate_vs_previous": ("evaluate", "eval_win_rate_vs_previous"),
    "eval_judge": ("evaluate", "eval_judge"),
    "eval_num_tokens_mean": ("evaluate", "eval_num_tokens_mean"),
    "eval_truncated_fraction": ("evaluate", "eval_truncated_fraction"),
    "eval_distinct_fraction": ("evaluate", "eval_distinct_fraction"),
    "eval_gain_vs_initial": ("evaluate", "eval_gain_vs_initial"),
    "eval_gain_vs_initial_ci_low": ("evaluate", "eval_gain_vs_initial_ci_low"),
    "eval_gain_vs_initial_ci_high": ("evaluate", "eval_gain_vs_initial_ci_high"),
    "optimizer_steps": ("train", "optimizer_steps"),
    "skipped_training": ("train", "skipped"),
    "gates_forced": ("pair", "gates_forced"),
}


def rounds_document(store: Store) -> dict[str, Any]:
    """The document of `rounds --json`: a row for each round that has anything committed, in order."""
    return {"schema_version": SCHEMA_VERSION, "rounds": [round_row(store, number) for number in store.rounds()]}


def round_row(store: Store, round_number: int) -> dict[str, Any]:
    """One round; null is what it does not have, or not yet. Raises CorruptionError.

    `num_prompts` counts the prompts that responses are sampled from for training: null in round 0, whose prompts are the
    held-out ones. `num_truncated` and `num_duplicates` are of the training responses; margins are means over the pairs
    that were ranked; `tokens_per_second` is what the engines sampled in the attempt that ended the stage. `seconds` sums
    what the attempts that committed the stages spent on them.
    """
    metrics = {stage: metrics_if_committed(store, round_number, stage) for stage in stages_of(round_number)}
    row: dict[str, Any] = {"round": round_number}
    row |= {name: metrics.get(stage, {}).get(key) for name, (stage, key) in _SOURCES.items()}
    if round_number == 0:
        row["num_prompts"] = None
    committed = [stage for stage in stages_of(round_number) if store.is_committed(round_number, stage)]
    seconds = {stage: store.commit_of(round_number, stage).seconds for stage in committed}
    row["tokens_per_second"] = _tokens_per_second(metrics.get("sample", {}))
    row["seconds"] = round(sum(seconds.values()), 3)
    row["stage_seconds"] = seconds
    row["complete"] = len(committed) == len(stages_of(round_number))
    return dict(finite(row))


def _tokens_per_second(sample: dict[str, Any]) -> float | None:
    seconds = sample.get("sampling_seconds")
    # an earlier version counted the tokens of all attempts only
    before = sample.get("num_tokens") if not sample.get("adopted_shards") else None
    tokens = sample.get("num_tokens_sampled", before)
    return round(tokens / seconds, 1) if tokens and seconds else None
