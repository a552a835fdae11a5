"""Rows that cannot be used: counted by reason, the first few of each reason with file and row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SHOWN = 3


class BadValue(Exception):
    """Why a row cannot be used. `reason` is one of a few short names that are counted; `detail` describes this row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. Example: BadRow("a.jsonl", 18, "empty_text", "column 'chosen' is empty")"""

    file: str
    row: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file} row {self.row}: {self.detail}"


@dataclass(frozen=True, slots=True)
class BadRows:
    """The number of rows for each reason (sorted by name), and the first few rows of each reason."""

    counts: Mapping[str, int]
    examples: tuple[BadRow, ...]

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def first(self, of_each: int) -> list[BadRow]:
        """The first rows of each reason, the most frequent reason first."""
        reasons = sorted(self.counts, key=lambda reason: -self.counts[reason])
        return [row for reason in reasons for row in [row for row in self.examples if row.reason == reason][:of_each]]

    def lines(self, num_rows: int) -> list[str]:
        """Messages about them, of `num_rows` rows that were read: the first rows of each reason, and a warning where most rows
        are bad."""
        found = [f"bad row: {row}" for row in self.first(_SHOWN)]
        for reason, count in self.counts.items():
            if count > _SHOWN:
                found.append(f"bad rows: {count:,} are {reason}")
        if 2 * self.count > num_rows:
            found.append(
                f"warning: most rows are bad ({self.count:,} of {num_rows:,}); check that the right columns are read"
            )
        return found


class BadRowLog:
    """Collects bad rows while a source is read. It keeps the first few rows of each reason and counts the others."""

    EXAMPLES_PER_REASON = 5

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: list[BadRow] = []

    def add(self, bad: BadRow) -> None:
        self.add_many(bad.reason, 1, [bad])

    def add_many(self, reason: str, count: int, examples: Sequence[BadRow]) -> None:
        """Add `count` rows of one reason; `examples` are the first of them."""
        room = max(0, self.EXAMPLES_PER_REASON - self._counts[reason])
        self._counts[reason] += count
        self._examples.extend(examples[:room])

    def done(self) -> BadRows:
        return BadRows(dict(sorted(self._counts.items())), tuple(self._examples))
