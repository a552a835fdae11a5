"""The cut: how many, which, and ties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.core.errors import ConfigError
from selfplay.selection.keep import keep_top, num_to_keep

values_and_ids = st.lists(
    st.tuples(st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, 0.5, math.nan, math.inf, -math.inf]), st.text(max_size=3)),
    unique_by=lambda row: row[1],
    max_size=30,
)
keeps = st.one_of(st.integers(1, 40), st.floats(0, 1, exclude_min=True))


@pytest.mark.parametrize(
    ("num", "keep", "expected"),
    [
        (10, 0.4, 4),
        (5, 0.5, 2),
        (7, 0.5, 4),
        (1, 0.4, 0),
        (0, 0.4, 0),
        (10, 1.0, 10),
        (10, 1, 1),
        (10, 3, 3),
        (2, 3, 2),
    ],
)
def test_num_to_keep(num: int, keep: float, expected: int) -> None:
    assert num_to_keep(num, keep) == expected


@pytest.mark.parametrize("keep", [0, 0.0, -1, -0.1, 1.1, math.nan, math.inf, True])
def test_keep_out_of_range(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep is"):
        num_to_keep(10, keep)


def test_ties_at_the_cut_go_to_the_lower_pair_id() -> None:
    rank, kept, _ = keep_top(np.array([1.0, 2.0, 1.0, 1.0]), ["c", "z", "a", "b"], 0.5)
    assert rank.tolist() == [4, 1, 2, 3]
    assert kept.tolist() == [False, True, True, False]


@given(values_and_ids, keeps)
def test_equals_pythons_sort(rows, keep: float) -> None:
    values, ids = np.array([row[0] for row in rows], dtype=float), [row[1] for row in rows]
    order = sorted((i for i in range(len(rows)) if math.isfinite(values[i])), key=lambda i: (-values[i], ids[i]))
    size = round(keep * len(order)) if isinstance(keep, float) else min(keep, len(order))
    rank, kept, _ = keep_top(values, ids, keep)
    assert rank.dtype == np.int64
    assert [order.index(i) + 1 if i in order else 0 for i in range(len(rows))] == rank.tolist()
    assert set(np.flatnonzero(kept).tolist()) == set(order[:size])


@given(values_and_ids, keeps, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows, keep: float, randomness) -> None:
    def by_id(table):
        rank, kept, _ = keep_top(np.array([row[0] for row in table], dtype=float), [row[1] for row in table], keep)
        return {
            row[1]: outcome for row, outcome in zip(table, zip(rank.tolist(), kept.tolist(), strict=True), strict=True)
        }

    shuffled = list(rows)
    randomness.shuffle(shuffled)
    assert by_id(rows) == by_id(shuffled)
