"""Pair ids as bytes: the same strings, the same order as Python's, a hash that neither rows nor layout change."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection import ids as ids_module
from selfplay.selection.ids import Ids

names = st.lists(st.text(max_size=20), max_size=30)


@given(names)
def test_a_sequence_of_the_strings(values: list[str]) -> None:
    for given_ids in (values, pa.array(values, pa.string()), pa.array(values, pa.large_string())):
        ids = Ids.of(given_ids)
        assert len(ids) == len(values) and list(ids) == values
        assert list(ids[2:]) == values[2:] and [ids[i] for i in range(len(values))] == values
        assert list(ids.at(np.arange(len(values))[::-1])) == values[::-1]
    assert list(Ids.of(pa.array(["x", *values], pa.string())[1:])) == values
    assert list(Ids.of(pa.chunked_array([["a"], values], pa.string()))) == ["a", *values]


@given(names, st.randoms(use_true_random=False))
def test_the_order_is_pythons_inside_each_block(values: list[str], randomness) -> None:
    blocks = [randomness.randrange(3) for _ in values]
    order = Ids.of(values).order_in(np.array(blocks, dtype=np.int64)).tolist()
    assert [(blocks[i], values[i]) for i in order] == sorted(zip(blocks, values, strict=True))


@given(names, st.integers(0, 2**64 - 1))
def test_hashes_depend_on_the_string_and_the_seed_alone(values: list[str], seed: int) -> None:
    alone = [int(Ids.of([value]).hashes(seed)[0]) for value in values]
    assert Ids.of(values).hashes(seed).tolist() == alone
    assert Ids.of(["padding" * 500, *values]).at(np.arange(1, len(values) + 1)).hashes(seed).tolist() == alone


def test_hashes_across_chunks_and_of_scattered_rows(monkeypatch) -> None:
    values = [f"p{i}" * (1 + i % 7) for i in range(500)]
    whole = Ids.of(values).hashes(3)
    assert len(set(whole.tolist())) == 500
    scattered = np.random.default_rng(0).permutation(500)
    monkeypatch.setattr(ids_module, "_CHUNK", 8)
    assert Ids.of(values).hashes(3).tolist() == whole.tolist()
    assert Ids.of(values).at(scattered).hashes(3).tolist() == whole[scattered].tolist()


def test_every_bit_of_the_hash_is_even() -> None:
    bits = np.unpackbits(Ids.of([f"p{i:07d}" for i in range(20_000)]).hashes(0).view(np.uint8).reshape(-1, 8), axis=1)
    assert bits.mean(axis=0) == pytest.approx(np.full(64, 0.5), abs=0.02)


def test_what_is_no_string_is_refused() -> None:
    with pytest.raises(ValueError, match="1 pair ids are null"):
        Ids.of(pa.array(["a", None]))
    with pytest.raises(ValueError, match="of type int64, not strings"):
        Ids.of(pa.array([1, 2]))
