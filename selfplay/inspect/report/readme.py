"""README.md of a run: what it is, its rounds as a table, and what to type to see more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from selfplay.core.format import PAGE, markdown_table
from selfplay.inspect.report.contents import Report

_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("round", lambda row: str(row["round"])),
    ("prompts", lambda row: PAGE.count(row["num_prompts"])),
    ("responses", lambda row: PAGE.count(row["num_responses"])),
    ("pairs", lambda row: PAGE.count(row["num_pairs"])),
    ("kept", lambda row: PAGE.count(row["num_kept"])),
    ("held-out reward", lambda row: PAGE.number(row["eval_reward_mean"])),
    ("held-out gold", lambda row: PAGE.number(row["eval_gold_mean"])),
    ("win rate vs round 0", lambda row: PAGE.percent(row["eval_win_rate_vs_initial"])),
    ("tokens", lambda row: PAGE.number(row["eval_num_tokens_mean"], 1)),
    ("time", lambda row: PAGE.duration(row["seconds"])),
)

_TEXT = """# {name}

A run of `selfplay`, {state}.

{table}
Held-out numbers are of the policy after the round. `report.html` shows all of it.

    selfplay status .
    selfplay rounds .
    selfplay show . ROUND
    selfplay pairs . ROUND --content
    selfplay report .
    selfplay resume .

`rounds/NNN/STAGE/` holds the tables (Parquet) and policies, each with a `.COMMIT.json` that lists its files with sha256 and the
commits it was made from. This file and `report.html` are derived: they may be removed, and are written again.
"""


def readme(report: Report) -> str:
    """The text; no text of prompts and responses is in it."""
    return _TEXT.format(name=_plain(report.name), state=report.state, table=_table(report.rows))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [[show(row) for _, show in _COLUMNS] for row in rows]
    used = [at for at in range(len(_COLUMNS)) if at == 0 or any(row[at] != PAGE.missing for row in cells)]
    return markdown_table([_COLUMNS[at][0] for at in used], [[row[at] for at in used] for row in cells], right=True)


def _plain(name: str) -> str:
    """A folder's name as a heading: no sign that Markdown or HTML would read."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else " " for letter in name).strip() or "A run"
