"""The table of rounds: columns that no round has a value for are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfplay.inspect.web.numbers import NONE, count, duration, number, percent

Row = Mapping[str, Any]
Cell = tuple[str, str]


def _plain(key: str, show: Callable[[Any], str]) -> Callable[[Row], Cell]:
    return lambda row: (show(row.get(key)), "")


def _with_interval(key: str, low: str, high: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        bounds = (row.get(low), row.get(high))
        return number(row.get(key)), f"[{number(bounds[0])}, {number(bounds[1])}]" if None not in bounds else ""

    return cell


def _round(row: Row) -> Cell:
    note = "under way" if not row["complete"] else "not trained" if row.get("skipped_training") else ""
    return str(row["round"]), note


_COLUMNS: tuple[tuple[str, Callable[[Row], Cell]], ...] = (
    ("round", _round),
    ("prompts", _plain("num_prompts", count)),
    ("responses", _plain("num_responses", count)),
    ("pairs", _plain("num_pairs", count)),
    ("kept", _plain("num_kept", count)),
    ("steps", _plain("optimizer_steps", count)),
    ("training reward", _plain("train_reward_mean", number)),
    ("held-out reward", _with_interval("eval_reward_mean", "eval_reward_ci_low", "eval_reward_ci_high")),
    ("held-out gold", _with_interval("eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high")),
    ("gold, greedy", _plain("eval_gold_greedy_mean", number)),
    ("wins vs start", _plain("eval_win_rate_vs_initial", percent)),
    ("wins vs previous", _plain("eval_win_rate_vs_previous", percent)),
    ("tokens", _plain("eval_num_tokens_mean", lambda value: number(value, 1))),
    ("truncated", _plain("eval_truncated_fraction", percent)),
    ("distinct", _plain("eval_distinct_fraction", percent)),
    ("time", _plain("seconds", duration)),
)


def rounds_table(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a cell (value, and a line below it) for each column of each row."""
    cells = [[show(row) for _, show in _COLUMNS] for row in rows]
    used = [at for at in range(len(_COLUMNS)) if at == 0 or any(row[at][0] != NONE for row in cells)]
    return [_COLUMNS[at][0] for at in used], [[row[at] for at in used] for row in cells]
