"""`selfplay rounds RUN`: the numbers of every round, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfplay.cli.arguments import Json, Run
from selfplay.core.escape import safe_text
from selfplay.core.format import duration, number, percent
from selfplay.core.terminal import note, table, write, write_json

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

# the training responses and their pairs, in a table of their own
_POOL: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("round", "round", lambda row: str(row["round"])),
    ("tokens", "num_tokens", lambda row: number(row["num_tokens"])),
    ("tokens/per second", "tokens_per_second", lambda row: number(row["tokens_per_second"], 0)),
    ("trun-/cated", "num_truncated", lambda row: _share(row, "num_truncated")),
    ("dupli-/cates", "num_duplicates", lambda row: _share(row, "num_duplicates")),
    ("explicit/margin", "explicit_margin_mean", lambda row: number(row["explicit_margin_mean"])),
    ("implicit/margin, size", "implicit_margin_abs_mean", lambda row: number(row["implicit_margin_abs_mean"])),
    ("kept: tokens/chosen longer", "length_gap_kept_mean", lambda row: number(row["length_gap_kept_mean"], 1)),
)


def _share(row: Row, name: str) -> str:
    return "-" if row[name] is None else percent(row[name] / max(row["num_responses"], 1))


def command(run: Run, json_output: Json = False) -> None:
    """Show the numbers of every round.

    Held-out numbers are of the policy after the round, on the same prompts with the same seeds every round.
    """
    from selfplay.inspect.documents.rounds import rounds_document
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
    for row in rows:
        for gate in row["gates_forced"] or ():
            note(f"! round {row['round']} was gone on with by --force: {safe_text(gate['message'])}")
    if any(not row["complete"] for row in rows):
        note("* not complete")


def rounds_text(rows: list[Row]) -> str:
    """The rounds, the training responses and pairs, and the time by stage, a table each."""
    judges = {row["eval_judge"] for row in rows} - {None}
    lines = [_table(_COLUMNS, rows)]
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
    trained = [row for row in rows if row["num_responses"] is not None]
    if trained:
        lines += ["", "training responses and their pairs", _table(_POOL, trained)]
    stages = _stages(rows)
    seconds = [[str(row["round"]), *(duration(row["stage_seconds"].get(stage)) for stage in stages)] for row in rows]
    lines += ["", "time by stage", table(["round", *stages], seconds)]
    return "\n".join(lines)


def _table(columns: tuple[tuple[str, str, Callable[[Row], str]], ...], rows: list[Row]) -> str:
    present = [column for column in columns if any(row[column[1]] is not None for row in rows)]
    return table([heading for heading, _, _ in present], [[cell(row) for _, _, cell in present] for row in rows])


def _stages(rows: list[Row]) -> list[str]:
    from selfplay.store.layout import STAGES

    return [stage for stage in STAGES if any(stage in row["stage_seconds"] for row in rows)]
