"""`selfplay rounds RUN`: the numbers of every round, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selfplay.cli.arguments import Json, Run
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal
from selfplay.core.format import duration, number, percent
from selfplay.core.terminal import note, table, write, write_json

if TYPE_CHECKING:
    from selfplay.inspect.documents.rounds import Column, RoundSummary

_FORMATS: dict[str, Callable[[Any], str]] = {
    "count": number,
    "number": number,
    "length": lambda value: number(value, 1),
    "share": percent,
    "rate": number,
    "duration": duration,
}
# the training responses and their pairs, in a table of their own: heading, field, cell
_POOL: tuple[tuple[str, str, Callable[[RoundSummary], str]], ...] = (
    ("round", "round", lambda row: str(row.round)),
    ("tokens", "num_tokens", lambda row: number(row.num_tokens)),
    ("tokens/per second", "tokens_per_second", lambda row: number(row.tokens_per_second, 0)),
    ("trun-/cated", "num_truncated", lambda row: _share(row.num_truncated, row)),
    ("dupli-/cates", "num_duplicates", lambda row: _share(row.num_duplicates, row)),
    ("explicit/margin", "explicit_margin_mean", lambda row: number(row.explicit_margin_mean)),
    ("implicit/margin, size", "implicit_margin_abs_mean", lambda row: number(row.implicit_margin_abs_mean)),
    ("kept: tokens/chosen longer", "length_gap_kept_mean", lambda row: number(row.length_gap_kept_mean, 1)),
)


def command(run: Run, json_output: Json = False) -> None:
    """Show the numbers of every round.

    Held-out numbers are of the policy after the round, on the same prompts with the same seeds every round.
    """
    from selfplay.inspect.documents.rounds import round_summaries, rounds_document
    from selfplay.inspect.reading import open_store

    store = open_store(run)
    if json_output:
        write_json(rounds_document(store))
        return
    rows = round_summaries(store)
    if not rows:
        status = escape_terminal(shell_command("status", run))
        note(f"no stage is committed yet; `{status}` shows how far the run is")
        return
    write(rounds_text(rows))
    for row in rows:
        for gate in row.gates_forced or ():
            note(f"! round {row.round} was continued with --force: {escape_terminal(gate.message)}")
    if any(not row.complete for row in rows):
        note("* not complete")


def rounds_text(rows: Sequence[RoundSummary]) -> str:
    """The rounds, the training responses and pairs, and the time by stage, a table each."""
    judges = {row.eval_judge for row in rows} - {None}
    lines = [_table(rows)]
    if judges:
        judge = "gold reward" if "gold" in judges else "reward"
        lines.append(f"win rates are judged by the {judge}; held-out numbers are of the policy after the round")
    gains = [row for row in rows if row.eval_gain_vs_initial is not None]
    if gains:
        last = gains[-1]
        low, high = last.eval_gain_vs_initial_ci_low, last.eval_gain_vs_initial_ci_high
        lines.append(
            f"round {last.round} over round 0, sampled, paired by prompt: "
            f"{last.eval_gain_vs_initial:+.3f} [{low:+.3f}, {high:+.3f}] (95 % interval)"
        )
    trained = [row for row in rows if row.num_responses is not None]
    if trained:
        lines += ["", "training responses and their pairs", _pool_table(trained)]
    stages = _stages(rows)
    seconds = [[str(row.round), *(duration(row.stage_seconds.get(stage)) for stage in stages)] for row in rows]
    lines += ["", "time by stage", table(["round", *stages], seconds)]
    return "\n".join(lines)


def _table(rows: Sequence[RoundSummary]) -> str:
    from selfplay.inspect.documents.rounds import columns_with_values

    columns = columns_with_values(rows)
    headings = [
        "held-out gold/[95 % interval]" if column.name == "eval_gold_mean" else column.label for column in columns
    ]
    return table(headings, [[_cell(column, row) for column in columns] for row in rows])


def _cell(column: Column, row: RoundSummary) -> str:
    text = _FORMATS[column.format](row.value(column))
    if column.name == "round" and not row.complete:
        return f"{text} *"
    if column.name == "optimizer_steps" and row.skipped_training:
        return "skipped"
    if column.name == "eval_gold_mean" and row.eval_gold_ci_low is not None and row.eval_gold_ci_high is not None:
        return f"{text} [{row.eval_gold_ci_low:.3f}, {row.eval_gold_ci_high:.3f}]"
    return text


def _pool_table(rows: Sequence[RoundSummary]) -> str:
    present = [column for column in _POOL if any(getattr(row, column[1]) is not None for row in rows)]
    return table([heading for heading, _, _ in present], [[cell(row) for _, _, cell in present] for row in rows])


def _share(count: int | None, row: RoundSummary) -> str:
    return "-" if count is None else percent(count / max(row.num_responses or 0, 1))


def _stages(rows: Sequence[RoundSummary]) -> list[str]:
    from selfplay.core.stages import STAGE_NAMES

    return [stage for stage in STAGE_NAMES if any(stage in row.stage_seconds for row in rows)]
