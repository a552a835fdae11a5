"""The cut: how many, which, and ties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.core.errors import ConfigError
from selfplay.selection.keep import Quotas, keep_top, num_to_keep, over_cap

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


def plain_quotas(
    values: list[float], groups: list[int], keep: float, most: float | None, least: int, *, lowest: bool
) -> tuple[set[int], set[int]]:
    """Rows kept and rows over the quota: the rule as sentences."""
    ranked = [row for row in range(len(values)) if math.isfinite(values[row])]
    order = sorted(ranked, key=lambda row: (values[row] if lowest else -values[row], row))
    allowed: list[int] = []
    over: set[int] = set()
    for row in order:
        before = sum(groups[other] == groups[row] for other in order[: order.index(row)])
        size = sum(groups[other] == groups[row] for other in ranked)
        (over.add if before >= (size if most is None else num_to_keep(size, most)) else allowed.append)(row)
    kept: list[int] = []
    for turn in range(least):  # the first of every group, then the second of every group ...
        for group in dict.fromkeys(groups[row] for row in allowed):
            of_group = [row for row in allowed if groups[row] == group]
            kept += of_group[turn : turn + 1]
        kept.sort(
            key=lambda row: ([other for other in allowed if groups[other] == groups[row]].index(row), order.index(row))
        )
    kept += [row for row in allowed if row not in kept]
    return set(kept[: num_to_keep(len(order), keep)]), over


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.5, math.nan, -math.inf]), st.integers(0, 3)), max_size=25),
    keeps,
    st.one_of(st.none(), st.integers(1, 4), st.floats(0.1, 1)),
    st.integers(0, 3),
    st.booleans(),
)
def test_quotas_are_as_the_sentences_say(
    table: list[tuple[float, int]], keep: float, most: float | None, least: int, lowest: bool
) -> None:
    values, groups = [row[0] for row in table], [row[1] for row in table]
    names = [str(group) for group in range(4)]
    quotas = Quotas(group_P=np.array(groups, dtype=np.int64), names=names, most=most, least=least)
    ids = [f"{row:03d}" for row in range(len(table))]
    _, kept, over = keep_top(np.array(values, dtype=float), ids, keep, lowest=lowest, quotas=quotas)
    expected = plain_quotas(values, groups, keep, most, least, lowest=lowest)
    assert (set(np.flatnonzero(kept).tolist()), set(np.flatnonzero(over).tolist())) == expected


def test_a_quota_for_each_group_by_name() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1])
    quotas = Quotas(group_P=groups, names=["base", "extra"], most={"base": 1.0, "extra": 1})
    _, kept, over = keep_top(np.arange(6.0), [*"abcdef"], 1.0, quotas=quotas)
    assert kept.tolist() == [True, True, True, False, False, True]
    assert over.tolist() == [False, False, False, True, True, False]
    none = Quotas(group_P=groups, names=["base", "extra"], most={"base": 0, "extra": 0.5})
    assert keep_top(np.arange(6.0), [*"abcdef"], 1.0, quotas=none)[1].tolist() == [False] * 4 + [True] * 2
    with pytest.raises(ConfigError, match="has no quota for 'extra'"):
        Quotas(group_P=groups, names=["base", "extra"], most={"base": 1.0})
    with pytest.raises(ConfigError, match="for a group that does not exist: 'more'"):
        Quotas(group_P=groups, names=["base", "extra"], most={"base": 1.0, "extra": 1, "more": 2})


def test_lowest_is_the_other_end_with_the_same_ties() -> None:
    values = np.array([1.0, 3.0, 1.0, math.nan, 2.0])
    rank, kept, _ = keep_top(values, [*"bcade"], 2, lowest=True)
    assert rank.tolist() == [2, 4, 1, 0, 3]
    assert kept.tolist() == [True, False, True, False, False]


def test_the_cap_of_a_prompt_leaves_what_ranks_first() -> None:
    values, prompts = np.array([1.0, 3.0, 2.0, math.nan, 5.0]), np.array([0, 0, 0, 0, 1])
    assert over_cap(values, [*"abcde"], prompts, 1).tolist() == [True, False, True, False, False]
    assert over_cap(values, [*"abcde"], prompts, 1, lowest=True).tolist() == [False, True, True, False, False]
