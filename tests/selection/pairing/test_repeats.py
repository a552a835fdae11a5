"""Repeated and reversed pairs, against a plain search."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.pairing.repeats import NONE, find_repeats

triples = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), max_size=25)


def searched(rows: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
    first = [next((j for j in range(i) if rows[j] == row), NONE) for i, row in enumerate(rows)]
    exchanged = [(prompt, rejected, chosen) for prompt, chosen, rejected in rows]
    opposite = [
        next((j for j, other in enumerate(rows) if other == swapped and other != rows[i]), NONE)
        for i, swapped in enumerate(exchanged)
    ]
    return first, opposite


@given(triples)
def test_as_a_plain_search_finds_them(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    found = find_repeats(*columns)
    assert tuple(one.tolist() for one in found) == searched(rows)


def test_an_example() -> None:
    duplicate, opposite = find_repeats(np.array([0, 0, 0, 1, 0]), np.array([1, 2, 1, 2, 1]), np.array([2, 1, 2, 1, 3]))
    assert duplicate.tolist() == [NONE, NONE, 0, NONE, NONE]
    assert opposite.tolist() == [1, 0, 1, NONE, NONE]
