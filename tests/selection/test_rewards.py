"""Several rewards of the same responses combined into one."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.selection.margins import Spread
from selfplay.selection.rewards import combine, part_statistics

HELPFUL = np.array([1.0, 4.0, 2.0, 7.0])
SHORT = np.array([-30.0, -10.0, -20.0, -40.0])


def slow(parts: dict[str, list[float]], weights: dict[str, float], normalize: str) -> list[float]:
    """The rule in plain Python, one response at a time."""
    found = []
    for row in range(len(next(iter(parts.values())))):
        total = 0.0
        for name, values in parts.items():
            finite = [value for value in values if math.isfinite(value)]
            if not math.isfinite(values[row]):
                total = math.nan
            elif normalize == "none":
                total += weights[name] * values[row]
            elif max(finite) > min(finite):
                total += weights[name] * (values[row] - statistics.fmean(finite)) / statistics.pstdev(finite)
        found.append(total)
    return found


def combined(parts: dict[str, Any], weights: dict[str, float], normalize: Any) -> Any:
    """By the statistics of the parts themselves."""
    return combine(parts, weights, normalize, part_statistics(parts))


def test_raw_numbers_are_weighted() -> None:
    found = combined({"helpful": HELPFUL, "short": SHORT}, {"helpful": 2.0, "short": -0.1}, "none")
    assert found.tolist() == pytest.approx([5.0, 9.0, 6.0, 18.0])


def test_z_scores_give_each_part_the_same_spread() -> None:
    found = combined({"helpful": HELPFUL, "short": SHORT}, {"helpful": 1.0, "short": 1.0}, "zscore")
    alike = combined({"helpful": 1000 * HELPFUL - 3, "short": SHORT}, {"helpful": 1.0, "short": 1.0}, "zscore")
    np.testing.assert_allclose(alike, found, atol=1e-12)
    assert found.mean() == pytest.approx(0.0, abs=1e-12)
    one = combined({"helpful": HELPFUL}, {"helpful": -3.0}, "zscore")
    assert (one.std(), one.argmin()) == (pytest.approx(3.0), 3)


def test_a_response_that_lacks_a_part_has_no_reward_but_counts_for_the_others() -> None:
    helpful = np.array([1.0, np.nan, 3.0, np.inf])
    short = np.array([5.0, 6.0, np.nan, 8.0])
    found = combined({"helpful": helpful, "short": short}, {"helpful": 1.0, "short": 1.0}, "zscore")
    assert np.isfinite(found).tolist() == [True, False, False, False]
    assert np.isnan(found[1:]).all()
    statistics = part_statistics({"helpful": helpful, "short": short})
    assert statistics["helpful"] == Spread(2.0, 1.0)
    assert statistics["short"].mean == pytest.approx(19 / 3)


def test_a_part_without_spread_counts_for_nothing() -> None:
    flat = np.full(4, 0.1)
    found = combined({"flat": flat, "short": SHORT}, {"flat": 5.0, "short": 1.0}, "zscore")
    np.testing.assert_array_equal(found, combined({"short": SHORT}, {"short": 1.0}, "zscore"))
    assert part_statistics({"flat": flat})["flat"].std == 0.0


def test_statistics_of_another_pool() -> None:
    given_ones = {"helpful": Spread(1.0, 2.0), "short": Spread(0.0, 0.0)}
    found = combine({"helpful": HELPFUL, "short": SHORT}, {"helpful": 1.0, "short": 1.0}, "zscore", given_ones)
    assert found.tolist() == [0.0, 1.5, 0.5, 3.0]


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_a_penalty_of_any_size_leaves_finite_statistics(size: float) -> None:
    values = np.array([1.0, -size, 2.0, size])
    over = part_statistics({"helpful": values})["helpful"]
    assert math.isfinite(over.mean)
    assert over.std == pytest.approx(size / math.sqrt(2))
    found = combined({"helpful": values}, {"helpful": 1.0}, "none")
    assert np.isfinite(found).all()
    # what is no number any more is no reward
    assert np.isnan(combined({"helpful": values}, {"helpful": 1e200}, "none")).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_no_responses() -> None:
    found = combined({"helpful": np.empty(0)}, {"helpful": 1.0}, "zscore")
    assert len(found) == 0
    assert part_statistics({"helpful": np.empty(0)}) == {"helpful": Spread(0.0, 0.0)}


@pytest.mark.parametrize(
    ("parts", "weights", "statistics", "message"),
    [
        ({}, {}, {}, "need weights"),
        ({"a": HELPFUL}, {"b": 1.0}, {"a": Spread(0.0, 1.0)}, "need weights"),
        ({"a": HELPFUL}, {"a": 1.0}, {"b": Spread(0.0, 1.0)}, "need weights"),
        (
            {"a": HELPFUL, "b": SHORT[:3]},
            {"a": 1.0, "b": 1.0},
            {"a": Spread(0.0, 1.0), "b": Spread(0.0, 1.0)},
            "lengths differ",
        ),
    ],
)
def test_misuse(parts: Any, weights: Any, statistics: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(parts, weights, "zscore", statistics)


# on a grid: what differs only by rounding has z-scores of rounding, in either way of computing them
VALUES = st.one_of(st.integers(-4000, 4000).map(lambda number: number / 8), st.sampled_from([0.0, 1.0, math.nan]))


@given(
    rows=st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=30),
    weights=st.tuples(*[st.sampled_from([-2.0, -0.5, 1.0, 3.0])] * 3),
    normalize=st.sampled_from(["zscore", "none"]),
    seed=st.integers(0, 100),
)
def test_against_the_slow_rule_and_in_any_order(
    rows: list[tuple[float, ...]], weights: tuple[float, ...], normalize: Any, seed: int
) -> None:
    names = ("a", "b", "c")
    parts = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    weight = dict(zip(names, weights, strict=True))
    arrays = {name: np.array(values) for name, values in parts.items()}
    found = combined(arrays, weight, normalize)
    np.testing.assert_allclose(found, slow(parts, weight, normalize), rtol=1e-6, atol=1e-6)
    order = np.random.default_rng(seed).permutation(len(rows))
    again = combined({name: arrays[name][order] for name in reversed(names)}, weight, normalize)
    np.testing.assert_array_equal(again, found[order])
