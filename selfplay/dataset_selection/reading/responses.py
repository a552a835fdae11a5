"""Several responses for each prompt, from which pairs are built: one row a prompt with lists, or one row a response."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.dataset_selection.reading.cells import rows
from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.conversations import Messages, read_prompt, read_response
from selfplay.dataset_selection.reading.dataset import MESSAGES, BadRow, BadRowLog, BadValue
from selfplay.dataset_selection.reading.ids import PromptIds, RowIds, prompt_hash
from selfplay.dataset_selection.reading.numbers import MOST_TOKENS, check_numbers, good_rows
from selfplay.dataset_selection.reading.pairs import NumberColumns
from selfplay.dataset_selection.reading.row_columns import RowColumn, group_of, other_columns
from selfplay.dataset_selection.reading.values import content_hash, number
from selfplay.inputs.row_reader import Source

_LISTS = {
    "rewards": "reward",
    "policy_logps": "policy_logp",
    "reference_logps": "reference_logp",
    "nums_tokens": "num_tokens",
}
_TABLES = tuple[pa.Table, pa.Table, int]


def read_lists(source: Source, columns: Columns, log: BadRowLog, notes: list[str]) -> _TABLES:
    """Prompts, responses and the number of rows read of a source with one row a prompt and lists of responses.

    A response that cannot be used stays, with a `drop_reason`, and takes none of the others with it; a row whose lists
    differ in length, or with no response that can be used, is a bad row.
    """
    names = columns.names
    lists = {ours: names[ours] for ours in _LISTS if ours in names}
    prompts = _Prompts(columns)
    ids = RowIds(source.name, "prompt_id", columns)
    of_prompt, index = array("q"), array("q")
    texts, reasons = RowColumn(pa.string()), RowColumn(pa.string())
    numbers = {ours: array("d") for ours in lists}
    total = 0
    for item in rows(source, columns):
        total += 1
        try:
            if item.values is None:
                raise BadValue("unreadable", item.problem or "unreadable")
            row_numbers = prompts.numbers.read(item.values)
            messages = _prompt(item.values, names)
            row = _row_of_lists(item.values, names["responses"], lists)
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        ids.append(item.values, prompt_hash(messages))
        prompts.append(item.file, item.row, item.values, messages, row_numbers)
        for at, (text, reason, values) in enumerate(row):
            of_prompt.append(prompts.count - 1)
            index.append(at)
            texts.append(text)
            reasons.append(reason)
            for ours, value in zip(lists, values, strict=True):
                numbers[ours].append(value)
    prompt_ids = ids.done(notes)
    prompt_R, index_R = np.array(of_prompt, np.int64), np.array(index, np.int64)
    table = prompts.done(prompt_ids, log, notes)
    responses: dict[str, Any] = {
        "response_id": _response_ids(prompt_ids, prompt_R, index_R),
        "prompt_id": prompt_ids.take(pa.array(prompt_R)),
        "response_index": index_R,
        "source_file": table.column("source_file").take(pa.array(prompt_R)),
        "source_row": table.column("source_row").take(pa.array(prompt_R)),
        "text": texts.done(),
        "drop_reason": reasons.done(),
    }
    for ours, column in numbers.items():
        values_R = np.array(column, np.float64)
        responses[_LISTS[ours]] = pa.array(values_R, from_pandas=True)
        if ours == "nums_tokens":
            responses["num_tokens"] = responses["num_tokens"].cast(pa.int64())
    return table, good_rows(responses, None), total


def read_response_rows(source: Source, columns: Columns, log: BadRowLog, notes: list[str]) -> _TABLES:
    """Prompts, responses and the number of rows read of a source with one row a response. Rows of one prompt need not
    stand together; the responses of a prompt are numbered in the order of the rows."""
    names = columns.names
    prompts = _Prompts(columns)
    ids, prompt_ids = RowIds(source.name, "response_id", columns), PromptIds(source.name, columns)
    files, texts = RowColumn(pa.string()), RowColumn(pa.string())
    numbers = NumberColumns(names, columns.numbers)
    source_rows, of_prompt, index = array("q"), array("q"), array("q")
    first_of: dict[str, int] = {}
    num_of: Counter[int] = Counter()
    differing: set[int] = set()
    total = 0
    for item in rows(source, columns):
        total += 1
        try:
            if item.values is None:
                raise BadValue("unreadable", item.problem or "unreadable")
            values = item.values
            row_numbers, of_its_prompt = numbers.read(values), prompts.numbers.read(values)
            messages = _prompt(values, names)
            if names["response"] not in values:
                raise BadValue("no_column", f"no column {names['response']!r}")
            text = read_response(values[names["response"]], f"column {names['response']!r}")
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        prompt = prompt_hash(messages)
        if prompt not in first_of:
            first_of[prompt] = prompts.count
            prompts.append(item.file, item.row, values, messages, of_its_prompt)
            prompt_ids.append(values, messages)
        at = first_of[prompt]
        if not prompts.numbers.has(at, of_its_prompt):
            differing.add(at)
        prompt_ids.check(values, prompt)
        ids.append(values, content_hash([prompt, text]))
        of_prompt.append(at)
        index.append(num_of[at])
        num_of[at] += 1
        numbers.append(row_numbers)
        files.append(item.file)
        source_rows.append(item.row)
        texts.append(text)
    file_R, row_R = files.done(), np.array(source_rows, np.int64)
    prompt_R, index_R = np.array(of_prompt, np.int64), np.array(index, np.int64)
    kept, good = check_numbers(numbers.done(), names, log, lambda row: (file_R[row].as_py(), int(row_R[row])), notes)
    id_B = prompt_ids.done(notes)
    fields: dict[str, Any] = {
        "response_id": ids.done(notes) if "response_id" in names else _response_ids(id_B, prompt_R, index_R),
        "prompt_id": id_B.take(pa.array(prompt_R)),
        "response_index": index_R,
        "source_file": file_R,
        "source_row": row_R,
        "text": texts.done(),
        "drop_reason": pa.nulls(len(row_R), pa.string()),
        **kept,
    }
    if differing:
        said = ", ".join(repr(names[ours]) for ours in columns.of_prompts)
        notes.append(f"{said}: in {len(differing)} prompts the rows have different numbers; the first row's is used")
    table = prompts.done(id_B, log, notes)
    if good is not None:
        table = table.filter(pa.array(np.isin(np.arange(table.num_rows), prompt_R[good])))
    return table, good_rows(fields, good), total


class _Prompts:
    """The table of prompts, filled row by row."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._files, self._messages = RowColumn(pa.string()), RowColumn(MESSAGES)
        self._rows = array("q")
        self._others, self._groups = RowColumn(pa.string()), RowColumn(pa.string())
        self.numbers = NumberColumns(columns.names, columns.of_prompts)

    @property
    def count(self) -> int:
        return len(self._rows)

    def append(
        self, file: str, row: int, values: dict[str, Any], messages: Messages, numbers: list[float | None]
    ) -> None:
        self.numbers.append(numbers)
        self._files.append(file)
        self._rows.append(row)
        self._messages.append(messages)
        if self._columns.others:
            self._others.append(other_columns(values, self._columns))
        if "group" in self._columns.names:
            self._groups.append(group_of(values, self._columns.names["group"]))

    def done(self, prompt_ids: pa.Array, log: BadRowLog, notes: list[str]) -> pa.Table:
        files, rows = self._files.done(), np.array(self._rows, np.int64)

        def place(row: int) -> tuple[str, int]:
            return files[row].as_py(), int(rows[row])

        kept, good = check_numbers(self.numbers.done(), self._columns.names, log, place, notes)
        assert good is None, "a prompt's numbers may be missing"
        fields: dict[str, Any] = {
            "prompt_id": prompt_ids,
            "source_file": files,
            "source_row": rows,
            "messages": self._messages.done(),
        }
        if "group" in self._columns.names:
            fields["group"] = self._groups.done()
        fields |= kept
        if self._columns.others:
            fields["columns_json"] = self._others.done()
        return pa.table(fields)


def _prompt(values: dict[str, Any], names: Any) -> Messages:
    return read_prompt(values, names["prompt"], system=names.get("system"), added=names.get("input"))


def _row_of_lists(
    values: dict[str, Any], theirs: str, lists: dict[str, str]
) -> list[tuple[str, str | None, list[float]]]:
    """Text, drop reason and numbers of every response in a row. Raises BadValue."""
    entries = _list(values, theirs)
    columns = []
    for name in lists.values():
        column = _list(values, name)
        if len(column) != len(entries):
            raise BadValue(
                "lists_differ_in_length", f"column {name!r} has {len(column)} entries, {theirs!r} has {len(entries)}"
            )
        columns.append(column)
    row = [
        _response(entry, [column[at] for column in columns], tuple(lists), f"response {at + 1} of column {theirs!r}")
        for at, entry in enumerate(entries)
    ]
    if all(reason is not None for _, reason, _ in row):
        raise BadValue("no_usable_response", f"none of the {len(row)} responses can be used: {row[0][1]}")
    return row


def _list(values: dict[str, Any], name: str) -> list[Any]:
    if name not in values:
        raise BadValue("no_column", f"no column {name!r}")
    value = values[name]
    if value is None:
        raise BadValue("null_value", f"column {name!r} is null")
    if not isinstance(value, list):
        raise BadValue("not_a_list", f"column {name!r} is no list but {type(value).__name__}")
    if not value:
        raise BadValue("empty_list", f"column {name!r} is an empty list")
    return value


def _response(entry: Any, given: list[Any], ours: tuple[str, ...], name: str) -> tuple[str, str | None, list[float]]:
    reason: str | None = None
    text = ""
    try:
        text = read_response(entry, name)
    except BadValue as error:
        reason = "empty" if error.reason == "empty_text" else error.reason
    values = []
    for one, value in zip(ours, given, strict=True):
        try:
            found = number(value, name)
        except BadValue:
            found = None
        if found is not None and one == "nums_tokens" and (not 1 <= found <= MOST_TOKENS or found != int(found)):
            found = None
        if found is None:
            reason = reason or f"{_LISTS[one]}_not_finite"
        values.append(np.nan if found is None else found)
    return text, reason, values


def _response_ids(prompt_ids: pa.Array, prompt_R: np.ndarray[Any, Any], index_R: np.ndarray[Any, Any]) -> pa.Array:
    """`PROMPT_ID-INDEX`"""
    ids = prompt_ids.to_pylist()
    pairs = zip(prompt_R.tolist(), index_R.tolist(), strict=True)
    return pa.array([f"{ids[prompt]}-{index}" for prompt, index in pairs], type=pa.string())
