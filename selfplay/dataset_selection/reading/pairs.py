"""Pairs read row by row: texts in any form, or numbers kept in rows (CSV, JSON)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.dataset_selection.reading.cells import rows
from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.conversations import read_pair
from selfplay.dataset_selection.reading.dataset import MESSAGES, BadRow, BadRowLog, BadValue
from selfplay.dataset_selection.reading.ids import PromptIds, RowIds
from selfplay.dataset_selection.reading.numbers import Numbers, check_numbers, good_rows
from selfplay.dataset_selection.reading.row_columns import Embeddings, RowColumn, group_of, other_columns
from selfplay.dataset_selection.reading.values import any_number, content_hash
from selfplay.inputs.row_reader import Source


class NumberColumns:
    """Numbers of rows that are read one after the other. NaN and infinity get in: whether a row is bad for them, and
    whether a column is null in every row, is said of whole columns (`numbers.check_numbers`), as where they are read so."""

    def __init__(self, names: Mapping[str, str], numbers: Sequence[str]) -> None:
        self._theirs = {ours: names[ours] for ours in numbers}
        self._values = {ours: array("d") for ours in numbers}
        self._nulls = {ours: bytearray() for ours in numbers}

    def read(self, values: dict[str, Any]) -> list[float | None]:
        """The numbers of one row, None for null. Raises BadValue for what is no number."""
        return [any_number(values.get(theirs), f"column {theirs!r}") for theirs in self._theirs.values()]

    def append(self, row: list[float | None]) -> None:
        for column, nulls, value in zip(self._values.values(), self._nulls.values(), row, strict=True):
            column.append(np.nan if value is None else value)
            nulls.append(value is None)

    def has(self, at: int, row: list[float | None]) -> bool:
        """Whether these are the numbers of the row that was appended as number `at`."""
        return all(
            nulls[at] == (value is None) and (value is None or value == column[at] or value != value)
            for column, nulls, value in zip(self._values.values(), self._nulls.values(), row, strict=True)
        )

    def done(self) -> dict[str, Numbers]:
        found = {}
        for ours, column in self._values.items():
            values = np.frombuffer(column, np.float64) if len(column) else np.empty(0)
            null_P = np.frombuffer(self._nulls[ours], np.bool_) if len(column) else np.empty(0, np.bool_)
            found[ours] = Numbers(values, null_P if null_P.any() else None)
        return found


def read_pairs(source: Source, columns: Columns, log: BadRowLog, notes: list[str]) -> tuple[pa.Table, int]:
    """The table of pairs (see `dataset.OfflineDataset`) and the number of rows read. Raises DataError for ids that the
    user named and that cannot be used."""
    has_text = columns.shape == "pairs"
    names = columns.names
    numbers = NumberColumns(names, columns.numbers)
    files, others, groups = RowColumn(pa.string()), RowColumn(pa.string()), RowColumn(pa.string())
    source_rows = array("q")
    prompts, chosens, rejecteds = RowColumn(MESSAGES), RowColumn(MESSAGES), RowColumn(MESSAGES)
    ids = RowIds(source.name, "pair_id", columns)
    prompt_ids = PromptIds(source.name, columns)
    embeddings = Embeddings(names.get("embedding"))
    total = 0
    for item in rows(source, columns):
        total += 1
        try:
            if item.values is None:
                raise BadValue("unreadable", item.problem or "unreadable")
            values = item.values
            row_numbers = numbers.read(values)
            if has_text:
                prompt, chosen, rejected = read_pair(
                    values,
                    names.get("prompt"),
                    names["chosen"],
                    names["rejected"],
                    system=names.get("system"),
                    added=names.get("input"),
                )
            embeddings.read(values)
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        numbers.append(row_numbers)
        embeddings.append()
        files.append(item.file)
        source_rows.append(item.row)
        if has_text:
            prompts.append(prompt)
            chosens.append(chosen)
            rejecteds.append(rejected)
            prompt_hash = prompt_ids.append(values, prompt)
            ids.append(values, content_hash([prompt_hash, chosen[0]["content"], rejected[0]["content"]]))
        else:
            ids.append(values, f"{total:08d}")
        if columns.others:
            others.append(other_columns(values, columns))
        if "group" in names:
            groups.append(group_of(values, names["group"]))
    file_P, row_P = files.done(), np.array(source_rows, np.int64)
    kept, good = check_numbers(numbers.done(), names, log, lambda row: (file_P[row].as_py(), int(row_P[row])), notes)
    fields: dict[str, Any] = {"pair_id": ids.done(notes)}
    if has_text:
        fields |= {"prompt_id": prompt_ids.done(notes), "source_file": file_P, "source_row": row_P}
        fields |= {"prompt": prompts.done(), "chosen": chosens.done(), "rejected": rejecteds.done()}
    if "group" in names:
        fields["group"] = groups.done()
    fields |= kept
    if "embedding" in names:
        fields["embedding"] = embeddings.done()
    if columns.others:
        fields["columns_json"] = others.done()
    return good_rows(fields, good), total
