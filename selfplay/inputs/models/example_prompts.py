"""Prompts that stand for all others of a source, for checks before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.records import Message

# Examples are looked for among the first rows, and longer prompts are none: a check takes less than a second.
_MOST_ROWS, _MOST_CHARS = 100_000, 100_000


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that stands for others. `what` names it, as in "the longest prompt of prompts.jsonl, row 7"."""

    what: str
    messages: list[Message]


def example_prompts(sources: Mapping[str, pa.Table]) -> list[Example]:
    """Of each table the first prompt, the longest one, one with a system message, and the one with the most turns; a prompt that
    is several of these is there once. `sources` are tables by name with the column `messages`, and `row` where rows have
    numbers."""
    return [example for name, table in sources.items() if len(table) for example in _of_table(name, table[:_MOST_ROWS])]


def _of_table(name: str, table: pa.Table) -> list[Example]:
    messages = table["messages"].combine_chunks()
    flat, parent = pc.list_flatten(messages), pc.list_parent_indices(messages).to_numpy()

    def sums(values: pa.Array | None) -> np.ndarray:
        weights = None if values is None else values.cast(pa.int64()).to_numpy()
        return np.bincount(parent, weights, minlength=len(messages))

    chars = sums(pc.utf8_length(pc.struct_field(flat, "content")))
    systems, turns = sums(pc.equal(pc.struct_field(flat, "role"), "system")), sums(None)
    short = chars <= _MOST_CHARS
    chosen = [("the first prompt", 0), ("the longest prompt", int(np.argmax(chars * short)))]
    if (systems * short).any():
        chosen.append(("the first prompt with a system message", int(np.argmax(systems * short > 0))))
    if (turns - systems).max() > 1:
        chosen.append(("the prompt with the most turns", int(np.argmax((turns - systems) * short))))
    rows = {row: what for what, row in reversed(chosen) if short[row]}
    number = {row: f", row {table['row'][row].as_py()}" if "row" in table.column_names else "" for row in rows}
    return [Example(f"{what} of {name}{number[row]}", messages[row].as_py()) for row, what in sorted(rows.items())]
