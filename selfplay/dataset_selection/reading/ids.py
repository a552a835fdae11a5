"""Ids of rows and prompts: the user's where they can be used, else hashes of the content."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from selfplay.core.errors import DataError
from selfplay.core.records import Message
from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.values import content_hash, row_id


class RowIds:
    """One id a row, each there once. `ours` is `pair_id`, `response_id` or `prompt_id` (one row a prompt).

    Without usable ids: the content's hash, with the number of equal rows before it, so that equal rows stay several.
    """

    def __init__(self, source: str, ours: str, columns: Columns) -> None:
        self._source = source
        self._ours = ours
        self._theirs = columns.names.get(ours)
        self._is_named = ours in columns.named
        self._given: list[str | None] = []
        self._made: list[str] = []
        self._seen: Counter[str] = Counter()

    def append(self, values: dict[str, Any], content: str) -> None:
        """`content`: a hash of the row, or a text that is its own."""
        number = self._seen[content]
        self._seen[content] += 1
        self._made.append(content if number == 0 else content_hash([content, number]))
        if self._theirs is not None:
            self._given.append(row_id(values.get(self._theirs)))

    def done(self, notes: list[str]) -> pa.Array:
        """Raises DataError where the user named the column and its ids are missing or repeated."""
        return pa.array(self.chosen(notes), type=pa.string())

    def chosen(self, notes: list[str]) -> list[str]:
        if self._theirs is None:
            return self._made
        given = [one for one in self._given if one is not None]
        missing = len(self._given) - len(given)
        counts = Counter(given)
        repeated = [one for one, count in counts.items() if count > 1]
        if not missing and not repeated:
            return given
        said = [f"is no text and no integer in {missing:,} rows"] if missing else []
        said += [f"repeats {len(repeated):,} ids ({repeated[0][:40]!r})"] if repeated else []
        problem = f"column {self._theirs!r} {' and '.join(said)}"
        if self._is_named:
            raise DataError(
                f"{self._source}: {problem}", f"Make the ids unique, or leave {self._ours} out: ids are then made."
            )
        notes.append(f"{problem}: it is not used as {self._ours}, ids are made from the rows")
        return self._made


class PromptIds:
    """The prompt that each row belongs to: equal messages are one prompt, as is an equal id of the user's.

    An id of the user's that stands for two different prompts makes the whole column unusable.
    """

    def __init__(self, source: str, columns: Columns) -> None:
        self._source = source
        self._theirs = columns.names.get("prompt_id")
        self._is_named = "prompt_id" in columns.named
        self._given: list[str] = []
        self._made: list[str] = []
        self._prompt_of: dict[str, str] = {}
        self._problem: str | None = None

    def append(self, values: dict[str, Any], prompt: list[Message]) -> str:
        """Returns the hash of the prompt."""
        made = prompt_hash(prompt)
        self._made.append(made)
        if self._theirs is not None:
            self._given.append(row_id(values.get(self._theirs)) or "")
            self.check(values, made)
        return made

    def check(self, values: dict[str, Any], made: str) -> None:
        """Whether the row's id stands for the prompt of this hash, and for no other."""
        if self._theirs is None or self._problem is not None:
            return
        given = row_id(values.get(self._theirs))
        if given is None:
            self._problem = f"column {self._theirs!r} is no text and no integer in some rows"
        elif self._prompt_of.setdefault(given, made) != made:
            self._problem = f"column {self._theirs!r} has one id, {given[:40]!r}, for different prompts"

    def done(self, notes: list[str]) -> pa.Array:
        """Raises DataError where the user named the column and it cannot be used."""
        return pa.array(self.chosen(notes), type=pa.string())

    def chosen(self, notes: list[str]) -> list[str]:
        if self._theirs is None:
            return self._made
        if self._problem is None:
            return self._given
        if self._is_named:
            raise DataError(
                f"{self._source}: {self._problem}", "Mend the ids, or leave prompt_id out: ids are then made."
            )
        notes.append(f"{self._problem}: it is not used as prompt_id, ids are made from the prompts")
        return self._made


def prompt_hash(prompt: list[Message]) -> str:
    """The id that a run gives to the first prompt of these messages (`sources.py`)."""
    return content_hash([prompt, 0])
