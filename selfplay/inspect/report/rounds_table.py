"""The table of rounds as pages show it: columns that no round has a value for are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from selfplay.core.format import PAGE
from selfplay.inspect.documents.rounds import Column, RoundSummary, columns_with_values

_FORMATS: dict[str, Callable[[Any], str]] = {
    "count": PAGE.count,
    "number": PAGE.number,
    "length": lambda value: PAGE.number(value, 1),
    "share": PAGE.percent,
    "rate": PAGE.percent,
    "duration": PAGE.duration,
}


def shown(column: Column, row: RoundSummary) -> str:
    """The value of a column in a row."""
    return _FORMATS[column.format](getattr(row, column.name))


def rounds_table(rows: Sequence[RoundSummary]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Headings, and a cell (value, and a line below it) for each column of each row."""
    columns = columns_with_values(rows)
    return (
        [column.heading for column in columns],
        [[(shown(column, row), _below(column, row)) for column in columns] for row in rows],
    )


def _below(column: Column, row: RoundSummary) -> str:
    if column.name == "round":
        return "under way" if not row.complete else "not trained" if row.skipped_training else ""
    if column.interval is None:
        return ""
    low, high = (getattr(row, name) for name in column.interval)
    return f"[{PAGE.number(low)}, {PAGE.number(high)}]" if low is not None and high is not None else ""
