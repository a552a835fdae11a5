"""The prompts of a source, checked: the *prompts* stage of a run starts here. Rendering and length come after, with a
tokenizer.

A row is a prompt, or a bad row that is counted with its reason, file and row number. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfplay.core.errors import DataError
from selfplay.core.records import Message
from selfplay.inputs.rows.bad_rows import BadRow, BadRowLog, BadRows, BadValue
from selfplay.inputs.rows.columns import prompt_columns
from selfplay.inputs.rows.messages import read_prompt
from selfplay.inputs.rows.names import near_names
from selfplay.inputs.rows.source import open_source
from selfplay.inputs.rows.survey import survey
from selfplay.inputs.rows.tables import MESSAGES, RowTable, other_columns
from selfplay.inputs.rows.values import content_hash, user_id

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """One prompt as the source gives it. `plain`: it was a text (a system prompt may stand before it now).
    `columns_json`: the row's other columns as canonical JSON. `row` is counted as `rows/source.py` says.

    Example: RawPrompt("5d41402abc4b2a76", [{"role": "user", "content": "2 + 2?"}], True, '{"answer":"4"}',
    "a.jsonl", 17)
    """

    prompt_id: str
    messages: list[Message]
    plain: bool
    columns_json: str
    file: str
    row: int


_SCHEMA = {
    "prompt_id": pa.string(),
    "messages": MESSAGES,
    "plain": pa.bool_(),
    "columns_json": pa.string(),
    "file": pa.string(),
    "row": pa.int64(),
}


class Prompts(Sequence[RawPrompt]):
    """The prompts of a source, in its order. They are kept as an Arrow table (`table`, columns as the fields of
    RawPrompt); a RawPrompt is made when it is asked for, so that a million prompts are not a million Python objects."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> RawPrompt: ...

    @overload
    def __getitem__(self, index: slice) -> Prompts: ...

    def __getitem__(self, index: int | slice) -> RawPrompt | Prompts:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self.take(range(start, stop, step))
        return next(iter(self.take([range(len(self))[index]])))

    def __iter__(self) -> Iterator[RawPrompt]:
        for batch in self.table.to_batches(max_chunksize=1_000):
            for row in batch.to_pylist():
                yield RawPrompt(**row)

    @classmethod
    def none(cls) -> Prompts:
        """No prompts."""
        return cls(pa.schema(list(_SCHEMA.items())).empty_table())

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Prompts:
        """These prompts, in this order."""
        return Prompts(self.table.take(pa.array(rows, pa.int64())))


@dataclass(frozen=True, slots=True)
class PromptSource:
    """All rows of a source: prompts and bad rows together are the rows read. `columns`: the names of the columns in any
    row. `notes`: what was assumed of the columns."""

    prompts: Prompts
    bad_rows: BadRows
    columns: list[str]
    notes: tuple[str, ...] = ()


def load_prompts(
    source: str,
    column: str,
    *,
    split: str | None = None,
    base_dir: str | Path = ".",
    id_column: str | None = None,
    system_prompt: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
) -> PromptSource:
    """Read and check every row of a source (see `open_source` for what a source is).

    `column` holds a prompt in any form of `rows/messages.py` that ends in a user turn. `id_column` holds unique texts
    or integers; without it a prompt's id is a hash of its messages and of the number of equal ones before it.
    `system_prompt` goes before every prompt that has no system message of its own.

    Raises DataError for a source that cannot be read, has no rows or only bad ones, has no such column, or repeats an
    id.
    """
    opened = open_source(source, split, base_dir, subset=subset, revision=revision)
    found = survey(opened)
    names = list(found.columns)
    for name, there in ((column, (*names, *found.fields)), (id_column, names)):
        if name is not None and names and name not in there:
            raise _no_such_column(source, name, names, there)
    columns = prompt_columns(source, found, column)
    table, log = RowTable(_SCHEMA), BadRowLog()
    seen: Counter[str] = Counter()
    for item in opened.rows():
        try:
            if item.values is None:
                raise BadValue("unreadable", item.problem or "unreadable")
            messages, is_plain = read_prompt(item.values, columns.names)
            if system_prompt is not None and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system_prompt}, *messages]
            if id_column is not None:
                prompt_id = user_id(item.values.get(id_column))
                if prompt_id is None:
                    kind = type(item.values.get(id_column)).__name__
                    raise BadValue(
                        "invalid_id", f"the id in column {id_column!r} is neither text nor an integer but {kind}"
                    )
            else:
                prompt_id = _hash_id(messages, seen)
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        table.append((prompt_id, messages, is_plain, other_columns(item.values, columns), item.file, item.row))
    prompts, bad_rows = Prompts(table.done()), log.done()
    if not len(prompts):
        raise _no_prompts(source, bad_rows)
    if id_column is not None:
        _check_unique(source, prompts.table, id_column)
    return PromptSource(prompts, bad_rows, names, columns.notes)


def _hash_id(messages: list[Message], seen: Counter[str]) -> str:
    """16 hex digits of the messages and the number of equal messages before them, which is counted in `seen`."""
    first = content_hash([messages, 0])
    number = seen[first]
    seen[first] += 1
    return content_hash([messages, number]) if number else first


def _check_unique(source: str, table: pa.Table, id_column: str) -> None:
    counts = table["prompt_id"].value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(repeated):
        return
    shown = []
    for one in repeated.to_pylist()[:_SHOWN]:
        rows = table["row"].filter(pc.equal(table["prompt_id"], one)).to_pylist()
        shown.append(f"{one!r} in rows {rows[0]} and {rows[1]}")
    raise DataError(
        f"{source}: {len(repeated)} ids in column {id_column!r} are repeated: {'; '.join(shown)}",
        "Make the ids unique, or leave id_column out: ids are then made from the prompts.",
    )


def _no_such_column(source: str, name: str, columns: list[str], options: Sequence[str]) -> DataError:
    near = near_names(name, options)
    return DataError(
        f"{source} has no column {name!r}; it has {', '.join(columns)}",
        f"Did you mean {near[0]!r}?" if near else "Set the column to one of these.",
    )


def _no_prompts(source: str, bad_rows: BadRows) -> DataError:
    if not bad_rows.count:
        return DataError(f"{source} has no rows", "Give a source with at least one prompt.")
    first = "; ".join(map(str, bad_rows.examples[:_SHOWN]))
    return DataError(
        f"none of the {bad_rows.count} rows of {source} is a prompt: {first}",
        "A prompt is a text, or a list of messages with role and content that ends in a user turn.",
    )
