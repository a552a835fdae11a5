"""Similarity of two texts: its definition by plain sets, and what follows from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.pairing.similarity import similarities, similarity


def slow(first: str, second: str) -> float:
    one, two = (_grams(text) for text in (first, second))
    return len(one & two) / len(one | two)


def _grams(text: str) -> set[bytes]:
    data = b"\0\0\0" + text.encode("utf-8", "surrogatepass") + b"\0\0\0"
    return {data[i : i + 4] for i in range(len(data) - 3)}


texts = st.one_of(st.text(max_size=40), st.text(alphabet="ab ", max_size=12))


@given(texts, texts)
def test_is_the_jaccard_index_of_4_grams_and_symmetric(first: str, second: str) -> None:
    found = similarity(first, second)
    if first or second:
        assert found == pytest.approx(slow(first, second))
    assert found == similarity(second, first)
    assert 0 <= found <= 1
    assert similarity(first, first) == 1


def test_more_changes_are_less_alike() -> None:
    words = [f"word{i}" for i in range(100)]
    changed = [" ".join(["other"] * k + words[k:]) for k in (0, 1, 10, 50, 100)]
    found = [similarity(changed[0], text) for text in changed]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1
    assert found[1] > 0.95
    assert found[-1] < 0.05
    assert similarity("abc", "xyz") == 0


def test_many_pairs_are_looked_up_by_position() -> None:
    bag = ["a cat", "a cat.", "two dogs", "a cat"]
    first, second = np.array([0, 0, 1, 3]), np.array([1, 2, 2, 0])
    wanted = [similarity(bag[i], bag[j]) for i, j in zip(first, second, strict=True)]
    assert similarities(bag, first, second).tolist() == wanted
    assert similarities(bag, first[:0], second[:0]).tolist() == []
