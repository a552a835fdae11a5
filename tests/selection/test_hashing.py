"""Random numbers of ids depend on the id and the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.hashing import random_bits, uniform


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(-(2**63), 2**65))
def test_they_depend_on_the_id_and_the_seed_alone(names: list[str], seed: int) -> None:
    assert random_bits(names, seed).tolist() == [int(random_bits([name], seed)[0]) for name in names]


def test_every_bit_is_even() -> None:
    bits = np.unpackbits(random_bits([f"p{i:07d}" for i in range(20_000)], 0).view(np.uint8).reshape(-1, 8), axis=1)
    assert bits.mean(axis=0) == pytest.approx(np.full(64, 0.5), abs=0.02)


def test_uniform_numbers_lie_inside_the_interval() -> None:
    found = uniform([f"p{i}" for i in range(20_000)], 1)
    assert found.min() > 0 and found.max() < 1
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert uniform(["p1"], 1) != uniform(["p1"], 2)
