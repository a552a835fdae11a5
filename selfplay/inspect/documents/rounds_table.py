"""The table of rounds as pages and cards show it: columns that no round has a value for are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from selfplay.core.format import PAGE, markdown_table
from selfplay.inspect.documents.rounds import Column, RoundSummary, columns_with_values

_FORMATS: dict[str, Callable[[Any], str]] = {
    "count": PAGE.count,
    "number": PAGE.number,
    "length": lambda value: PAGE.number(value, 1),
    "share": PAGE.percent,
    "rate": PAGE.percent,
    "duration": PAGE.duration,
}


def rounds_table(rows: Sequence[RoundSummary]) -> tuple[list[Column], list[list[tuple[str, str]]]]:
    """Columns, and a cell (value, and a line below it) for each column of each row."""
    columns = columns_with_values(rows)
    return columns, [[(_shown(column, row), _below(column, row)) for column in columns] for row in rows]


def rounds_markdown(rows: Sequence[RoundSummary]) -> str:
    """The brief columns as a Markdown table."""
    columns = [column for column in columns_with_values(rows) if column.brief]
    cells = [[_shown(column, row) for column in columns] for row in rows]
    return markdown_table([column.heading for column in columns], cells, right=True)


def _shown(column: Column, row: RoundSummary) -> str:
    return _FORMATS[column.format](row.value(column))


def _below(column: Column, row: RoundSummary) -> str:
    if column.name == "round":
        return "under way" if not row.complete else "not trained" if row.skipped_training else ""
    if column.interval is None:
        return ""
    low, high = (getattr(row, name) for name in column.interval)
    return f"[{PAGE.number(low)}, {PAGE.number(high)}]" if low is not None and high is not None else ""
