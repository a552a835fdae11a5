"""References to rows, against dicts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from selfplay.run.stages.responses import COLUMNS, RoundResponses
from selfplay.run.stages.rows import count_values, row_numbers


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
