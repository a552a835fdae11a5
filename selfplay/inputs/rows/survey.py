"""What a source holds, before its rows are read: its columns, the fields inside of them, and the kinds of their values.

A field goes by a dotted name: `completions.response` is `response` in a column `completions` of objects or of lists of
objects. A column of that very name comes first.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from selfplay.inputs.rows.dialogues import is_dialogue
from selfplay.inputs.rows.fields import unfolded
from selfplay.inputs.rows.file_names import notes_on_files
from selfplay.inputs.rows.looks import Look, looks_of
from selfplay.inputs.rows.source import Source

Kind = Literal[
    "text",
    "number",
    "messages",
    "dialogue",
    "dialogues",
    "objects",
    "texts",
    "turns",
    "answer",
    "answers",
    "media",
    "list",
    "object",
]
"""`messages` end in a user turn, a `dialogue` in one of the assistant (as text: HH's form), which an `answer` is alone;
`dialogues` and `answers` are lists of them; `turns`: lists of two texts."""

_SAMPLE = 100
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Survey:
    """`columns` and `fields` (dotted names) of all rows, in the order of their first appearance; `kinds`: the most common kind
    of the values of each column in the first rows (none where they are null); `extras`: further fields of their messages;
    `looks`: what texts of these rows look like, by column or field; `of_files`: what is to be said of the source's files."""

    columns: tuple[str, ...]
    fields: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] | None = None
    extras: tuple[str, ...] = ()
    looks: Mapping[str, frozenset[Look]] | None = None
    of_files: tuple[str, ...] = ()

    def kind(self, name: str) -> Kind | None:
        """The kind of a column's values, None where it is not known."""
        return (self.kinds or {}).get(name)

    def look_like(self, look: Look, within: Collection[str]) -> list[str]:
        """Which of some columns and fields hold texts that look so, in themselves or further inside."""
        found = [name for name, looks in (self.looks or {}).items() if look in looks]
        return [name for name in sorted(within) if any(one == name or one.startswith(f"{name}.") for one in found)]


def survey(source: Source) -> Survey:
    """The survey of a source. Reads the whole source where it is JSON. Raises DataError as `Source.rows` does."""
    columns: dict[str, None] = {}
    fields = _Fields()
    sample: list[dict[str, Any]] = []
    if (schemas := source.schemas()) is not None:
        for schema in schemas:
            for field in schema:
                columns[field.name] = None
                fields.names |= dict.fromkeys(_fields_of_type(field.name, field.type))
    elif (headers := source.headers()) is not None:
        columns = dict.fromkeys(headers)
    else:
        for row in source.rows():
            if row.values is None:
                continue
            if not columns.keys() >= row.values.keys():
                columns |= dict.fromkeys(row.values)
            for name, value in row.values.items():
                if isinstance(value, dict | list):
                    fields.add(name, value)
            if len(sample) < _SAMPLE:
                sample.append(row.values)
    if columns and not sample:
        sample = [row.values for row in itertools.islice(source.rows(), _SAMPLE) if row.values is not None]
    kinds: dict[str, Counter[Kind]] = {}
    extras: dict[str, None] = {}
    looks: dict[str, set[Look]] = {}
    for values in sample:
        for name, value in values.items():
            for path, look in looks_of(name, value):
                looks.setdefault(path, set()).add(look)
            value = unfolded(value)
            if isinstance(value, dict | list):
                fields.add(name, value)
                extras |= dict.fromkeys(_extras(value))
            if (kind := kind_of(value)) is not None:
                kinds.setdefault(name, Counter())[kind] += 1
    common = {name: counts.most_common(1)[0][0] for name, counts in kinds.items()}
    inside = tuple(name for name in fields.names if name not in columns)
    seen = {name: frozenset(found) for name, found in looks.items()}
    return Survey(tuple(columns), inside, common, tuple(extras), seen, tuple(notes_on_files(source.name, source.files)))


class _Fields:
    """The dotted names of the fields of objects, in the order of their first appearance."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self._seen: set[tuple[str, ...]] = set()

    def add(self, name: str, value: Any, depth: int = _DEPTH) -> None:
        """Add the fields of an object, or of the first object in a list."""
        if isinstance(value, list):
            value = next((entry for entry in value if entry is not None), None)
        if not isinstance(value, dict) or not depth:
            return
        keys = (name, *value)
        if keys not in self._seen:  # a million rows have the same few
            self._seen.add(keys)
            self.names |= dict.fromkeys(f"{name}.{key}" for key in value)
        for key, entry in value.items():
            if isinstance(entry, dict | list):
                self.add(f"{name}.{key}", entry, depth - 1)


def _fields_of_type(name: str, kind: pa.DataType) -> Iterator[str]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for field in kind:
            yield f"{name}.{field.name}"
            yield from _fields_of_type(f"{name}.{field.name}", field.type)


def kind_of(value: Any) -> Kind | None:
    """The kind of a value; None for null, an empty text and an empty list."""
    if value is None or value == "" or value == [] or value == {}:
        return None
    if isinstance(value, str):
        return "dialogue" if is_dialogue(value) and not value.rstrip().endswith("Assistant:") else "text"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, bytes):
        return "media"
    if isinstance(value, dict):
        return (
            _kind_of_list([value]) if _is_message(value) else "media" if {"bytes", "path"} <= value.keys() else "object"
        )
    return _kind_of_list(value) if isinstance(value, list) else None


def _kind_of_list(value: Sequence[Any]) -> Kind:
    if all(_is_message(entry) for entry in value):
        last = str(value[-1].get("role", value[-1].get("from"))).lower()
        if last not in ("assistant", "gpt", "model", "chatbot", "bot"):
            return "messages"
        return "dialogue" if len(value) > 1 else "answer"
    if all(isinstance(entry, dict) for entry in value):
        return "media" if all({"bytes", "path"} <= entry.keys() for entry in value) else "objects"
    if all(isinstance(entry, list) and entry and all(map(_is_message, entry)) for entry in value):
        return "dialogues" if any(len(entry) > 1 for entry in value) else "answers"
    if all(isinstance(entry, list) and len(entry) == 2 and all(isinstance(t, str) for t in entry) for entry in value):
        return "turns"
    return "texts" if all(isinstance(entry, str) for entry in value) else "list"


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _extras(value: Any) -> Iterator[str]:
    """The fields of messages beside those that are read and that hold something."""
    for entry in value if isinstance(value, list) else ():
        if _is_message(entry):
            read = ("role", "content") if "role" in entry else ("from", "value")
            yield from (key for key, held in entry.items() if key not in read and held not in (None, "", [], {}))
        elif isinstance(entry, list):
            yield from _extras(entry)
