"""The prompts of a source, checked: the *prompts* stage starts here. Rendering and length come after, with a
tokenizer.

A row is a prompt or a bad row with its reason, file and row number; none goes away in silence. Imports no
torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import DataError
from selfplay.core.records import Message
from selfplay.inputs.row_reader import digest as source_digest
from selfplay.inputs.row_reader import read_rows

__all__ = ["BadRow", "PromptSource", "RawPrompt", "load_prompts", "read_rows", "source_digest"]

_ROLES = ("system", "user", "assistant")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """One prompt as the source gives it. `plain`: it was a string there (a system prompt may stand before it
    now). `columns_json`: the row's other columns as canonical JSON. `row` is counted as `source_rows.py` says.

    Example: RawPrompt("5d41402abc4b2a76", [{"role": "user", "content": "2 + 2?"}], True, '{"answer":"4"}',
    "a.jsonl", 17)
    """

    prompt_id: str
    messages: list[Message]
    plain: bool
    columns_json: str
    file: str
    row: int


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no prompt, and why. Example: BadRow("a.jsonl", 18, "column 'question' is empty")"""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class PromptSource:
    """All rows of a source, in its order: prompts and bad rows together are the rows read. `columns`: the names
    in any row."""

    prompts: list[RawPrompt]
    bad_rows: list[BadRow]
    columns: list[str]


class _BadPrompt(Exception):
    """Why a row is no prompt."""


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
    """Read and check every row of a source (see `read_rows` for what a source is).

    `column` holds a text or a list of chat messages that ends in a user turn. `id_column` holds unique texts or
    integers; without it a prompt's id is a hash of its messages and of how many equal ones came before.
    `system_prompt` goes before every prompt that has no system message of its own.

    Raises DataError for a source that cannot be read, has no rows or only bad ones, has no such column, or
    repeats an id.
    """
    prompts: list[RawPrompt] = []
    bad_rows: list[BadRow] = []
    columns: dict[str, None] = {}
    seen: Counter[str] = Counter()
    for item in read_rows(source, split, base_dir, subset=subset, revision=revision):
        if item.values is None:
            bad_rows.append(BadRow(item.file, item.row, item.problem or "unreadable"))
            continue
        columns.update(dict.fromkeys(item.values))
        try:
            messages, plain = _messages(item.values, column)
            if system_prompt is not None and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system_prompt}, *messages]
            others = {name: value for name, value in item.values.items() if name != column}
            prompt_id = _user_id(item.values, id_column) if id_column else _hash_id(messages, seen)
        except _BadPrompt as error:
            bad_rows.append(BadRow(item.file, item.row, str(error)))
            continue
        prompts.append(RawPrompt(prompt_id, messages, plain, canonical_json(others), item.file, item.row))
    for name in (column, id_column):
        if name is not None and columns and name not in columns:
            raise _no_such_column(source, name, list(columns))
    if not prompts:
        raise _no_prompts(source, bad_rows)
    _check_unique(source, prompts, id_column)
    return PromptSource(prompts, bad_rows, list(columns))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, as UTF-8 text. What JSON does not know becomes its `str`, NaN and
    infinity null, half a surrogate pair a question mark."""
    text = json.dumps(_jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    return str(value)


def _messages(values: dict[str, Any], column: str) -> tuple[list[Message], bool]:
    """A row's messages and whether the prompt was plain text. Raises _BadPrompt."""
    if column not in values:
        raise _BadPrompt(f"no column {column!r}")
    value = values[column]
    if value is None:
        raise _BadPrompt(f"column {column!r} is null")
    if isinstance(value, str):
        return [{"role": "user", "content": _text(value, f"column {column!r}")}], True
    if not isinstance(value, list):
        raise _BadPrompt(f"column {column!r} is neither text nor a list of messages but {type(value).__name__}")
    if not value:
        raise _BadPrompt(f"column {column!r} has no messages")
    messages = [_message(entry, number) for number, entry in enumerate(value, 1)]
    if messages[-1]["role"] != "user":
        raise _BadPrompt(f"the last message is of the role {messages[-1]['role']!r}, a prompt ends in a user turn")
    late = next((number for number, message in enumerate(messages[1:], 2) if message["role"] == "system"), None)
    if late is not None:
        raise _BadPrompt(f"message {late} is of the role 'system', which only the first may be")
    return messages, False


def _message(entry: Any, number: int) -> Message:
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str) or "content" not in entry:
        raise _BadPrompt(f"message {number} is no object with role and content")
    # Parquet fills the fields that other rows' messages have with null.
    more = sorted(key for key, value in entry.items() if key not in ("role", "content") and value is not None)
    if more:
        raise _BadPrompt(f"message {number} has {more[0]!r}; only role and content are known")
    if entry["role"] not in _ROLES:
        raise _BadPrompt(f"message {number} is of the role {entry['role']!r}; roles are {', '.join(_ROLES)}")
    if not isinstance(entry["content"], str):
        raise _BadPrompt(f"the content of message {number} is not text but {type(entry['content']).__name__}")
    return {"role": entry["role"], "content": _text(entry["content"], f"the content of message {number}")}


def _text(text: str, name: str) -> str:
    """The text unchanged. Raises _BadPrompt when it is blank or no Unicode text (half a surrogate pair, from
    broken escapes)."""
    if not text.strip():
        raise _BadPrompt(f"{name} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadPrompt(f"{name} is not valid Unicode at character {error.start + 1}") from error
    return text


def _user_id(values: dict[str, Any], id_column: str) -> str:
    value = values.get(id_column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadPrompt(f"the id in column {id_column!r} is neither text nor an integer but {type(value).__name__}")
    return _text(str(value), f"the id in column {id_column!r}")


def _hash_id(messages: list[Message], seen: Counter[str]) -> str:
    """16 hex digits of the messages and the number of equal messages before them, which is counted up in
    `seen`."""
    key = canonical_json(messages)
    number = seen[key]
    seen[key] += 1
    return hashlib.sha256(canonical_json([messages, number]).encode()).hexdigest()[:16]


def _check_unique(source: str, prompts: list[RawPrompt], id_column: str | None) -> None:
    first: dict[str, RawPrompt] = {}
    repeats = []
    for prompt in prompts:
        if first.setdefault(prompt.prompt_id, prompt) is not prompt:
            repeats.append(f"{prompt.prompt_id!r} in rows {first[prompt.prompt_id].row} and {prompt.row}")
    if repeats:
        raise DataError(
            f"{source}: {len(repeats)} ids in column {id_column!r} are repeated: {'; '.join(repeats[:_SHOWN])}",
            "Make the ids unique, or leave id_column out: ids are then made from the prompts.",
        )


def _no_such_column(source: str, name: str, columns: list[str]) -> DataError:
    near = difflib.get_close_matches(name, columns, 1)
    return DataError(
        f"{source} has no column {name!r}; it has {', '.join(columns)}",
        f"Did you mean {near[0]!r}?" if near else "Set the column to one of these.",
    )


def _no_prompts(source: str, bad_rows: list[BadRow]) -> DataError:
    if not bad_rows:
        return DataError(f"{source} has no rows", "Give a source with at least one prompt.")
    first = "; ".join(f"{bad.file} row {bad.row}: {bad.reason}" for bad in bad_rows[:_SHOWN])
    return DataError(
        f"none of the {len(bad_rows)} rows of {source} is a prompt: {first}",
        "A prompt is a text, or a list of messages with role and content that ends in a user turn.",
    )
