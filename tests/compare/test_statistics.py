"""The mathematics of a comparison against slow references."""

from __future__ import annotations

import math
import statistics as slow

import numpy as np
import pyarrow as pa
import pytest

from selfplay.compare.statistics import (
    labels,
    mean_of,
    over_worlds,
    overlap,
    paired_by_prompt,
    shares,
    standardized_gain,
)


def test_a_mean_and_its_interval() -> None:
    values = [0.3, -0.1, 0.25, 0.4, 0.05]
    found = mean_of([*values, math.nan])
    assert found is not None
    se = slow.stdev(values) / math.sqrt(5)
    assert (found.mean, found.se) == pytest.approx((slow.mean(values), se))
    assert (found.low, found.high) == pytest.approx((found.mean - 2.7764 * se, found.mean + 2.7764 * se), abs=1e-5)
    assert (found.num, found.num_above) == (5, 4)
    alone = mean_of([0.5])
    assert alone is not None
    assert (alone.mean, alone.se, alone.low, alone.high, alone.num) == (0.5, None, None, None, 1)
    assert mean_of([]) is None
    assert mean_of([math.nan]) is None


def test_pairing_takes_the_prompts_that_both_have() -> None:
    ours, theirs = {"a": 1.0, "b": 3.0, "c": 9.0}, {"b": 1.0, "a": 0.5, "d": 7.0}
    found = paired_by_prompt(ours, theirs)
    assert found is not None
    assert (found.mean, found.num, found.num_above) == (pytest.approx((0.5 + 2.0) / 2), 2, 2)
    assert paired_by_prompt(ours, {"z": 1.0}) is None
    # pairing removes what the prompts have in common
    rng = np.random.default_rng(1)
    level = {str(number): float(value) for number, value in enumerate(rng.normal(size=50))}
    moved = {prompt: value + 0.1 for prompt, value in level.items()}
    shift = paired_by_prompt(moved, level)
    assert shift is not None and shift.se == pytest.approx(0, abs=1e-12) and shift.mean == pytest.approx(0.1)


def test_worlds_count_once_each() -> None:
    values, worlds = [0.1, 0.3, 0.5, 0.9], ["a", "a", "a", "b"]
    found = over_worlds(values, worlds)
    assert found is not None
    assert (found.mean, found.num) == (pytest.approx((0.3 + 0.9) / 2), 2)
    assert over_worlds(values, ["a"] * 4) is None


def test_overlap_by_counting() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        ours = {int(number) for number in rng.integers(30, size=12)}
        theirs = {int(number) for number in rng.integers(30, size=20)}
        both = sum(1 for number in range(30) if number in ours and number in theirs)
        either = sum(1 for number in range(30) if number in ours or number in theirs)
        found = overlap(pa.array([*ours], pa.int64()), pa.array([*theirs], pa.int64()))
        assert found is not None
        assert (found.jaccard, found.share) == (both / either, both / len(ours))
    assert overlap(pa.array([], pa.int64()), pa.array([1])) is None


def test_shares_add_up() -> None:
    assert shares(pa.array(["b", "a", "b", "b"])) == {"a": 0.25, "b": 0.75}
    assert shares(pa.array([], pa.string())) == {}


def test_labels_that_the_judge_contradicts() -> None:
    chosen = np.array([1.0, 0.2, 0.5, math.nan, 0.9])
    rejected = np.array([0.5, 0.4, 0.5, 0.1, math.nan])
    found = labels(chosen, rejected)
    assert found is not None
    assert (found.wrong, found.tied, found.num) == (1 / 3, 1 / 3, 3)
    assert labels(np.array([math.nan]), np.array([1.0])) is None


def test_gains_in_standard_deviations_of_the_start() -> None:
    start, now = {"a": 0.0, "b": 2.0, "c": 4.0}, {"a": 1.0, "b": 3.0, "c": 5.0}
    assert standardized_gain(now, start) == pytest.approx(1.0 / slow.pstdev([0, 2, 4]))
    assert standardized_gain(now, {"a": 1.0, "b": 1.0}) is None
    assert standardized_gain({}, start) is None
    assert standardized_gain(now, {}) is None
