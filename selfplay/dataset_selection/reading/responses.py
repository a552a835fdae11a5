"""Several responses for each prompt, from which pairs are built: one row a prompt with lists, or one row a response."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.dataset_selection.reading.numbers import MOST_TOKENS, checked
from selfplay.inputs.rows.bad_rows import BadRow, BadRowLog, BadValue
from selfplay.inputs.rows.columns import Columns
from selfplay.inputs.rows.fields import optional_at, unfolded, value_at
from selfplay.inputs.rows.messages import Messages, read_answer, read_context
from selfplay.inputs.rows.source import Source, SourceRow
from selfplay.inputs.rows.tables import MESSAGES, RowTable, distinct_hashes, other_columns, prompt_ids, row_ids
from selfplay.inputs.rows.values import content_hash, group_name, lenient_json, number, user_id
from selfplay.store.spool import Spool

_LISTS = {
    "rewards": "reward",
    "ranks": "reward",
    "policy_logps": "policy_logp",
    "reference_logps": "reference_logp",
    "nums_tokens": "num_tokens",
}
_Tables = tuple[pa.Table, pa.Table, int]
_RESPONSE = {
    "prompt": pa.int64(),  # the row of the response's prompt
    "response_index": pa.int64(),
    "source_file": pa.string(),
    "source_row": pa.int64(),
    "text": pa.string(),
    "drop_reason": pa.string(),
}


@dataclass(frozen=True, slots=True)
class _Response:
    """A response in a list: the turns before it, its text, why it cannot be used, its numbers, and the fields of its own."""

    context: Messages
    text: str
    reason: str | None
    measured: list[float | None]
    own: dict[str, Any]


def read_lists(
    source: Source, columns: Columns, log: BadRowLog, notes: list[str], spool: Spool | None = None
) -> _Tables:
    """Prompts, responses and the number of rows read of a source with one row a prompt and lists of responses.

    A response that cannot be used stays, with a `drop_reason`, and drops none of the others; a row whose lists differ in
    length, or without a usable response, is a bad row.
    """
    lists = {ours: columns.names[ours] for ours in _LISTS if ours in columns.names}
    has_own = "." in columns.names["responses"]
    prompts = _prompt_table(columns, spool)
    kinds = _RESPONSE | {_LISTS[ours]: pa.float64() for ours in lists}
    responses = RowTable(kinds | ({"columns_json": pa.string()} if has_own else {}), spool)
    total = 0
    for item in source.rows():
        total += 1
        try:
            values, numbers = _values(item, columns)
            found = _responses(values, columns.names["responses"], lists)
            usable = [(one.context, one.text) for one in found if one.reason is None]
            called = [f"response {at} of column {columns.names['responses']!r}" for at, one in enumerate(found, 1)
                      if one.reason is None]  # fmt: skip
            messages = read_context(values, columns.names, usable, called)
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        for index, one in enumerate(found):
            row = [len(prompts), index, item.file, item.row, one.text, one.reason, *one.measured]
            if has_own:
                others = json.loads(other_columns(values, columns))
                row.append(lenient_json({**others, **one.own}))
            responses.append(row)
        prompts.append(_prompt_row(item, values, messages, numbers, columns, with_others=True))
    prompt_table = prompts.done()
    ids = row_ids(prompt_table["given"], distinct_hashes(prompt_table["hash"]), "prompt_id", columns, notes)
    table = _with_ids(responses.done(), ids)
    if "num_tokens" in table.column_names:
        at = table.column_names.index("num_tokens")
        table = table.set_column(at, "num_tokens", table["num_tokens"].cast(pa.int64()))
    return _finished(prompt_table, ids, columns, log, notes), table, total


def read_response_rows(
    source: Source, columns: Columns, log: BadRowLog, notes: list[str], spool: Spool | None = None
) -> _Tables:
    """Prompts, responses and the number of rows read of a source with one row a response. The rows of one prompt may
    stand anywhere; its responses are numbered in the order of the rows, and each keeps its own row's other columns and group."""
    names = columns.names
    theirs = {_LISTS.get(f"{ours}s", ours): names[ours] for ours in columns.numbers}
    signs = [-1 if ours == "rank" else 1 for ours in columns.numbers]
    prompts = _prompt_table(columns, spool, of_responses=True)
    kinds = _RESPONSE | ({"group": pa.string()} if "group" in names else {}) | dict.fromkeys(theirs, pa.float64())
    kinds |= {"id": pa.string(), "hash": pa.string(), "prompt_given": pa.string(), "prompt_hash": pa.string()}
    responses = RowTable(kinds | ({"columns_json": pa.string()} if columns.others else {}), spool)
    row_of: dict[str, int] = {}
    numbers_of: dict[int, str] = {}
    num_of: Counter[int] = Counter()
    differing: set[int] = set()
    total, called = 0, f"column {names['response']!r}"
    for item in source.rows():
        total += 1
        try:
            values, of_prompt = _values(item, columns)
            measured = [
                None if value is None else sign * value
                for value, sign in zip((_number(values, name) for name in theirs.values()), signs, strict=True)
            ]
            answer = read_answer(value_at(values, names["response"]), called)
            messages = read_context(values, names, [answer], [called])
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        prompt = content_hash([messages, 0])
        at = row_of.setdefault(prompt, len(prompts))
        if at == len(prompts):
            prompts.append(_prompt_row(item, values, messages, of_prompt, columns, with_others=False))
        if of_prompt and numbers_of.setdefault(at, str(of_prompt)) != str(of_prompt):
            differing.add(at)
        row: list[Any] = [at, num_of[at], item.file, item.row, answer[1], None]
        row += [group_name(optional_at(values, names["group"]))] if "group" in names else []
        row += [*measured, user_id(optional_at(values, names.get("response_id"))), content_hash([prompt, answer[1]])]
        row += [user_id(optional_at(values, names.get("prompt_id"))), prompt]
        responses.append([*row, other_columns(values, columns)] if columns.others else row)
        num_of[at] += 1
    if differing:
        said = ", ".join(repr(names[ours]) for ours in columns.of_prompts)
        notes.append(f"{said}: in {len(differing)} prompts the rows have different numbers; the first row's is used")
    prompt_table, table = prompts.done(), responses.done()
    # all rows of a prompt have its id, or the column is not used
    made = table["prompt_hash"]
    is_given = prompt_ids(table["prompt_given"], made, columns, notes) is not made
    ids = prompt_table["given" if is_given else "hash"]
    if "response_id" in names:
        made = distinct_hashes(table["hash"])
        table = table.append_column("response_id", row_ids(table["id"], made, "response_id", columns, notes))
    files, rows = table["source_file"], table["source_row"]
    table = _with_ids(table.drop_columns(["id", "hash", "prompt_given", "prompt_hash"]), ids)
    table, good = checked(table, theirs, log, lambda row: (files[row].as_py(), rows[row].as_py()), notes, spool)
    prompt_table = _finished(prompt_table, ids, columns, log, notes)
    if good is not None:
        prompt_table = prompt_table.filter(pc.is_in(prompt_table["prompt_id"], table["prompt_id"].combine_chunks()))
    return prompt_table, table, total


def _prompt_table(columns: Columns, spool: Spool | None, *, of_responses: bool = False) -> RowTable:
    """`of_responses`: group and other columns belong to the responses."""
    schema: dict[str, pa.DataType] = {"given": pa.string(), "hash": pa.string()}
    schema |= {"source_file": pa.string(), "source_row": pa.int64(), "messages": MESSAGES}
    schema |= {"group": pa.string()} if "group" in columns.names and not of_responses else {}
    schema |= dict.fromkeys(columns.of_prompts, pa.float64())
    return RowTable(schema | ({"columns_json": pa.string()} if columns.others and not of_responses else {}), spool)


def _values(item: SourceRow, columns: Columns) -> tuple[dict[str, Any], list[float | None]]:
    """Values and the prompt's numbers of a row. Raises BadValue."""
    if item.values is None:
        raise BadValue("unreadable", item.problem or "unreadable")
    values = item.values
    return values, [_number(values, columns.names[ours]) for ours in columns.of_prompts]


def _number(values: dict[str, Any], name: str) -> float | None:
    return number(optional_at(values, name), f"column {name!r}")


def _prompt_row(
    item: SourceRow,
    values: dict[str, Any],
    messages: Messages,
    numbers: list[float | None],
    columns: Columns,
    *,
    with_others: bool,
) -> list[Any]:
    names = columns.names
    row: list[Any] = [user_id(optional_at(values, names.get("prompt_id"))), content_hash([messages, 0])]
    row += [item.file, item.row, messages]
    row += [group_name(optional_at(values, names["group"]))] if "group" in names and with_others else []
    row += numbers
    return [*row, other_columns(values, columns)] if with_others and columns.others else row


def _with_ids(responses: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """The responses with the ids of their prompts in place of the prompts' rows, and ids made of these if they have none."""
    prompt_id = ids.take(responses["prompt"])
    if "response_id" not in responses.column_names:
        index = responses["response_index"].cast(pa.string())
        made = pc.binary_join_element_wise(prompt_id, index, "-")
        responses = responses.append_column("response_id", made)
    responses = responses.append_column("prompt_id", prompt_id).drop_columns(["prompt"])
    first = ["response_id", "prompt_id"]
    return responses.select([*first, *(name for name in responses.column_names if name not in first)])


def _finished(prompts: pa.Table, ids: pa.ChunkedArray, columns: Columns, log: BadRowLog, notes: list[str]) -> pa.Table:
    files, rows = prompts["source_file"], prompts["source_row"]
    prompts = prompts.drop_columns(["given", "hash"]).add_column(0, "prompt_id", ids)
    numbers = {ours: columns.names[ours] for ours in columns.of_prompts}
    found, good = checked(prompts, numbers, log, lambda row: (files[row].as_py(), rows[row].as_py()), notes)
    assert good is None, "a prompt's numbers may be missing"
    return found


def _responses(values: dict[str, Any], theirs: str, lists: dict[str, str]) -> list[_Response]:
    """The responses in a row. Raises BadValue."""
    entries = _list(values, theirs)
    columns = {ours: _list(values, name) for ours, name in lists.items()}
    for ours, column in columns.items():
        if len(column) != len(entries):
            raise BadValue(
                "lists_differ_in_length",
                f"column {lists[ours]!r} has {len(column)} entries, {theirs!r} has {len(entries)}",
            )
    own = _own_fields(values, theirs, lists)
    row = []
    for at, entry in enumerate(entries):
        name, reason, context, text = f"response {at + 1} of column {theirs!r}", None, Messages(), ""
        try:
            context, text = read_answer(entry, name)
        except BadValue as error:
            reason = "empty" if error.reason == "empty_text" else error.reason
        measured = [_finite(ours, column[at]) for ours, column in columns.items()]
        missing = [_LISTS[ours] for ours, value in zip(columns, measured, strict=True) if value is None]
        reason = reason or (f"{missing[0]}_not_finite" if missing else None)
        row.append(_Response(context, text, reason, measured, own[at] if own else {}))
    if all(one.reason is not None for one in row):
        raise BadValue("no_usable_response", f"none of the {len(row)} responses can be used: {row[0].reason}")
    return row


def _own_fields(values: dict[str, Any], theirs: str, lists: dict[str, str]) -> list[dict[str, Any]]:
    """Of responses in a list of objects, the fields of each that are not read otherwise."""
    root, _, _ = theirs.partition(".")
    if theirs in values or root not in values:
        return []
    used = {name.removeprefix(f"{root}.") for name in (theirs, *lists.values())}
    entries = unfolded(values[root])
    if isinstance(entries, dict):  # an object of lists, as `datasets` stores a list of objects
        size = len(entries[theirs.removeprefix(f"{root}.")])
        held = {name: value for name, value in entries.items() if isinstance(value, list) and len(value) == size}
        entries = [{name: value[at] for name, value in held.items()} for at in range(size)]
    return [{name: value for name, value in entry.items() if name not in used} for entry in entries]


def _finite(ours: str, value: Any) -> float | None:
    """A finite number (a whole one for a number of tokens; minus a rank), None for everything else."""
    try:
        found = number(value, ours)
    except BadValue:
        return None
    if found is None or not math.isfinite(found):
        return None
    if ours == "ranks":
        return -found
    return None if ours == "nums_tokens" and (not 1 <= found <= MOST_TOKENS or found != int(found)) else found


def _list(values: dict[str, Any], name: str) -> list[Any]:
    """A list, or the list that a text holds (CSV). Raises BadValue."""
    value = unfolded(value_at(values, name))
    if value is None:
        raise BadValue("null_value", f"column {name!r} is null")
    if not isinstance(value, list):
        raise BadValue("not_a_list", f"column {name!r} is not a list but {type(value).__name__}")
    if not value:
        raise BadValue("empty_list", f"column {name!r} is an empty list")
    return value
