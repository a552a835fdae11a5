"""References to rows, against dicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.run.stages import rows as rows_module
from selfplay.run.stages.responses import COLUMNS, RoundResponses
from selfplay.run.stages.rows import count_values, find_rows, row_numbers
from selfplay.store.layout import part_name
from selfplay.store.lazy_table import LazyTable, Part


def test_row_numbers_of_ids_that_come_more_than_once() -> None:
    generator = np.random.default_rng(0)
    among = [f"id {number}" for number in generator.permutation(40)]
    ids = [among[row] for row in generator.integers(40, size=100)]
    chunked = pa.chunked_array([ids[:30], ids[30:]])
    found = row_numbers(chunked, pa.chunked_array([among[:7], among[7:]]))
    assert [among[row] for row in found] == ids
    assert len(row_numbers(pa.chunked_array([], pa.string()), pa.chunked_array([among]))) == 0
    with pytest.raises(AssertionError, match="an id of a later table"):
        row_numbers(pa.chunked_array([["elsewhere"]]), pa.chunked_array([among]))


@pytest.mark.parametrize("at_a_time", [1, 12, 1000])
def test_rows_are_found_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    monkeypatch.setattr(rows_module, "ROWS_AT_A_TIME", at_a_time)
    generator = np.random.default_rng(0)
    among = [f"id {number}" for number in generator.permutation(40)]
    parts = []
    for index, first in enumerate(range(0, 40, 7)):
        path, names = tmp_path / part_name(index), among[first : first + 7]
        pq.write_table(pa.table({"id": names, "length": [len(name) for name in names]}), path)
        parts.append(Part(path, first, len(names)))
    table = LazyTable(tmp_path, tuple(parts))
    ids = [among[row] for row in generator.integers(40, size=100)]
    found, columns = find_rows(table, "id", pa.chunked_array([ids[:30], ids[30:]]), ["length"])
    assert [among[row] for row in found] == ids
    assert columns["length"].to_pylist() == [len(name) for name in ids]
    none, columns = find_rows(table, "id", pa.chunked_array([], pa.string()), ["length"])
    assert len(none) == len(columns["length"]) == 0
    with pytest.raises(AssertionError, match="an id of a later table"):
        find_rows(table, "id", pa.chunked_array([["elsewhere"]]), ["length"])


def test_values_are_counted_in_the_order_of_appearance() -> None:
    assert count_values(pa.chunked_array([["b", None, "a"], ["b"]])) == {"b": 2, "a": 1}
    assert [*count_values(pa.chunked_array([["b", None, "a"], ["b"]]))] == ["b", "a"]


def test_responses_as_numbers() -> None:
    rows = [
        ("a", 0, "same", "stop", 3, 0), ("a", 1, " \n", "length", 4, None), ("b", 0, "same", "stop", 3, 0),
    ]  # fmt: skip
    table = pa.table([list(column) for column in zip(*rows, strict=True)], names=COLUMNS)
    found = RoundResponses.of([table.slice(0, 2), table.slice(2)])
    assert found.prompt_R.tolist() == [0, 0, 1] and found.prompt_ids.to_pylist() == ["a", "b"]
    assert found.text_R[0] == found.text_R[2] != found.text_R[1]
    assert (found.empty_R.tolist(), found.truncated_R.tolist()) == ([False, True, False], [False, True, False])
    assert found.own_R.tolist() == [True, False, True]
