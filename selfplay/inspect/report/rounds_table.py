"""The table of rounds: columns that no round has a value for are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfplay.core.format import PAGE

Row = Mapping[str, Any]
Cell = tuple[str, str]


def _plain(key: str, show: Callable[[Any], str]) -> Callable[[Row], Cell]:
    return lambda row: (show(row.get(key)), "")


def _with_interval(key: str, low: str, high: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        bounds = (row.get(low), row.get(high))
        return PAGE.number(
            row.get(key)
        ), f"[{PAGE.number(bounds[0])}, {PAGE.number(bounds[1])}]" if None not in bounds else ""

    return cell


def _round(row: Row) -> Cell:
    note = "under way" if not row["complete"] else "not trained" if row.get("skipped_training") else ""
    return str(row["round"]), note


_COLUMNS: tuple[tuple[str, Callable[[Row], Cell]], ...] = (
    ("round", _round),
    ("prompts", _plain("num_prompts", PAGE.count)),
    ("responses", _plain("num_responses", PAGE.count)),
    ("pairs", _plain("num_pairs", PAGE.count)),
    ("kept", _plain("num_kept", PAGE.count)),
    ("steps", _plain("optimizer_steps", PAGE.count)),
    ("training reward", _plain("train_reward_mean", PAGE.number)),
    ("held-out reward", _with_interval("eval_reward_mean", "eval_reward_ci_low", "eval_reward_ci_high")),
    ("held-out gold", _with_interval("eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high")),
    ("gold, greedy", _plain("eval_gold_greedy_mean", PAGE.number)),
    ("wins vs start", _plain("eval_win_rate_vs_initial", PAGE.percent)),
    ("wins vs previous", _plain("eval_win_rate_vs_previous", PAGE.percent)),
    ("tokens", _plain("eval_num_tokens_mean", lambda value: PAGE.number(value, 1))),
    ("truncated", _plain("eval_truncated_fraction", PAGE.percent)),
    ("distinct", _plain("eval_distinct_fraction", PAGE.percent)),
    ("time", _plain("seconds", PAGE.duration)),
)


def rounds_table(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a cell (value, and a line below it) for each column of each row."""
    cells = [[show(row) for _, show in _COLUMNS] for row in rows]
    used = [at for at in range(len(_COLUMNS)) if at == 0 or any(row[at][0] != PAGE.missing for row in cells)]
    return [_COLUMNS[at][0] for at in used], [[row[at] for at in used] for row in cells]
