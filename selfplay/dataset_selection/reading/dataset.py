"""What reading an offline dataset gives: the tables, the rows that are none, and what was recognised.

Stands between `reading.py`, which makes it, and the pipeline of `selfplay select`, which fills in what is missing and
ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Kind = Literal["pairs", "responses"]

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))


class BadValue(Exception):
    """Why a row cannot be used: `reason` is one of few short names that are counted, `detail` says it of this row."""

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
    """The rows that cannot be used: how many for each reason (sorted by name), and the first few of them.

    Example: BadRows({"empty_text": 2}, (BadRow("a.jsonl", 18, "empty_text", "column 'chosen' is empty"), ...))
    """

    counts: Mapping[str, int]
    examples: tuple[BadRow, ...]

    @property
    def count(self) -> int:
        return sum(self.counts.values())


class BadRowLog:
    """Collects bad rows while a source is read; of each reason only the first few are kept as they are."""

    EXAMPLES_OF_A_REASON = 5

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: list[BadRow] = []

    def add(self, bad: BadRow) -> None:
        self._counts[bad.reason] += 1
        if self._counts[bad.reason] <= self.EXAMPLES_OF_A_REASON:
            self._examples.append(bad)

    def add_many(self, reason: str, count: int, examples: list[BadRow]) -> None:
        """`count` rows of one reason at once, of which `examples` are the first."""
        room = max(0, self.EXAMPLES_OF_A_REASON - self._counts[reason])
        self._counts[reason] += count
        self._examples.extend(examples[:room])

    def done(self) -> BadRows:
        return BadRows(dict(sorted(self._counts.items())), tuple(self._examples))


@dataclass(frozen=True, slots=True)
class OfflineDataset:
    """An offline preference dataset, read and checked.

    `kind` "pairs": `pairs` is there, one row a pair, in the source's order: `pair_id prompt_id source_file source_row
    prompt chosen rejected` (the last three as lists of messages; chosen and rejected are one assistant turn each), the
    numbers that were recognised under the names of the pairs table, and `columns_json` (the row's other columns, where
    there are any). A table of numbers only has no text: `pair_id`, the numbers, and `columns_json` where there are others.

    `kind` "responses": `prompts` (`prompt_id source_file source_row messages columns_json?`) and `responses`
    (`response_id prompt_id response_index source_file source_row text` and `reward policy_logp reference_logp num_tokens`
    where recognised, `drop_reason` null where the response can be used).

    `recognised`: our name -> the source's column. `notes`: sentences for people about what was assumed or left out.
    `num_rows`: rows read; those of pairs (or, one row a response, of responses; or, one row a prompt, of prompts) and bad
    rows add up to it. `digest`: sha256 (hex) of the source's content.
    """

    kind: Kind
    pairs: pa.Table | None
    prompts: pa.Table | None
    responses: pa.Table | None
    bad_rows: BadRows
    recognised: Mapping[str, str]
    num_rows: int
    digest: str
    notes: list[str] = field(default_factory=list)
