"""`selfplay rounds RUN`: the numbers of every round, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfplay.cli.arguments import Json, Run
from selfplay.cli.terminal import duration, note, number, percent, table, write, write_json

Row = dict[str, Any]


def _gold(row: Row) -> str:
    low, high = row["eval_gold_ci_low"], row["eval_gold_ci_high"]
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return number(row["eval_gold_mean"]) + interval


def _steps(row: Row) -> str:
    return "skipped" if row["skipped_training"] else number(row["optimizer_steps"])


# heading, the key whose absence in every round leaves the column out, cell
_COLUMNS: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("round", "round", lambda row: f"{row['round']}" if row["complete"] else f"{row['round']} *"),
    ("prompts", "num_prompts", lambda row: number(row["num_prompts"])),
    ("responses", "num_responses", lambda row: number(row["num_responses"])),
    ("pairs", "num_pairs", lambda row: number(row["num_pairs"])),
    ("kept", "num_kept", lambda row: number(row["num_kept"])),
    ("steps", "optimizer_steps", _steps),
    ("train/reward", "train_reward_mean", lambda row: number(row["train_reward_mean"])),
    ("held-out/reward", "eval_reward_mean", lambda row: number(row["eval_reward_mean"])),
    ("held-out gold/[95 % interval]", "eval_gold_mean", _gold),
    ("gold,/greedy", "eval_gold_greedy_mean", lambda row: number(row["eval_gold_greedy_mean"])),
    ("win rate/vs round 0", "eval_win_rate_vs_initial", lambda row: number(row["eval_win_rate_vs_initial"])),
    ("win rate/vs previous", "eval_win_rate_vs_previous", lambda row: number(row["eval_win_rate_vs_previous"])),
    ("length,/tokens", "eval_num_tokens_mean", lambda row: number(row["eval_num_tokens_mean"], 1)),
    ("trun-/cated", "eval_truncated_fraction", lambda row: percent(row["eval_truncated_fraction"])),
    ("dis-/tinct", "eval_distinct_fraction", lambda row: percent(row["eval_distinct_fraction"])),
    ("time", "seconds", lambda row: duration(row["seconds"])),
)


def command(run: Run, json_output: Json = False) -> None:
    """Show the numbers of every round.

    Held-out numbers are of the policy after the round, on the same prompts with the same seeds every round.
    """
    from selfplay.inspect.rounds import rounds_document
    from selfplay.store.run import Store

    document = rounds_document(Store.open(run))
    if json_output:
        write_json(document)
        return
    rows = document["rounds"]
    if not rows:
        note(f"no stage is committed yet; `selfplay status {run}` says where the run stands")
        return
    write(rounds_text(rows))
    if any(not row["complete"] for row in rows):
        note("* not complete")


def rounds_text(rows: list[Row]) -> str:
    """The rounds and the time by stage as two tables."""
    columns = [column for column in _COLUMNS if any(row[column[1]] is not None for row in rows)]
    judges = {row["eval_judge"] for row in rows} - {None}
    shown = table([heading for heading, _, _ in columns], [[cell(row) for _, _, cell in columns] for row in rows])
    lines = [shown]
    if judges:
        judge = "gold reward" if "gold" in judges else "reward"
        lines.append(f"win rates are judged by the {judge}; held-out numbers are of the policy after the round")
    gains = [row for row in rows if row["eval_gain_vs_initial"] is not None]
    if gains:
        last = gains[-1]
        low, high = last["eval_gain_vs_initial_ci_low"], last["eval_gain_vs_initial_ci_high"]
        lines.append(
            f"round {last['round']} over round 0, sampled, paired by prompt: "
            f"{last['eval_gain_vs_initial']:+.3f} [{low:+.3f}, {high:+.3f}] (95 % interval)"
        )
    stages = _stages(rows)
    seconds = [[str(row["round"]), *(duration(row["stage_seconds"].get(stage)) for stage in stages)] for row in rows]
    lines += ["", "time by stage", table(["round", *stages], seconds)]
    return "\n".join(lines)


def _stages(rows: list[Row]) -> list[str]:
    from selfplay.store.layout import STAGES

    return [stage for stage in STAGES if any(stage in row["stage_seconds"] for row in rows)]
