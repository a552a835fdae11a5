"""Evaluation statistics against slow references and known answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.core import evaluation_statistics as statistics

values = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, math.nan]))
samples = st.lists(st.tuples(st.sampled_from("abcd"), values), max_size=15)


def columns(rows):
    return [row[0] for row in rows], [row[1] for row in rows]


def test_each_prompt_counts_once() -> None:
    estimate = statistics.mean_over_prompts({"a": np.ones(3), "b": np.zeros(1)}, seed=0)
    assert estimate.mean == 0.5
    assert estimate.num_prompts == 2


def test_missing_values_are_left_out_and_nothing_gives_nothing() -> None:
    assert statistics.prompt_means(["a", "a", "b", "c"], [1.0, None, math.nan, math.inf]) == {"a": 1.0}
    assert statistics.mean_over_prompts({}, seed=0) is None
    assert statistics.mean_over_prompts(statistics.by_prompt(["b"], [None]), seed=0) is None
    assert statistics.paired_difference({"a": np.ones(1)}, {"b": np.ones(1)}, seed=0) is None
    assert statistics.paired_win_rate({"a": np.ones(1)}, {"b": np.ones(1)}, seed=0) is None


def test_interval_agrees_with_the_normal_approximation_and_with_its_seed() -> None:
    draws = np.random.default_rng(0).normal(3, 2, 400)
    found = statistics.bootstrap_mean(draws, seed=1)
    half = 1.96 * draws.std() / 20
    assert found.mean == draws.mean()
    assert (found.ci_low, found.ci_high) == (
        pytest.approx(found.mean - half, abs=0.02),
        pytest.approx(found.mean + half, abs=0.02),
    )
    assert found == statistics.bootstrap_mean(draws, seed=1)
    assert found != statistics.bootstrap_mean(draws, seed=2)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    found = [statistics.bootstrap_mean(generator.normal(0, 1, 100), seed=i, num_resamples=500) for i in range(300)]
    assert 0.90 <= np.mean([one.ci_low <= 0 <= one.ci_high for one in found]) <= 0.98


def test_blocks_of_resamples_are_only_a_matter_of_memory(monkeypatch) -> None:
    draws = np.arange(50.0)
    whole = statistics.bootstrap_mean(draws, seed=0, num_resamples=101)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 350)
    assert statistics.bootstrap_mean(draws, seed=0, num_resamples=101) == whole


def test_non_finite_prompt_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        statistics.bootstrap_mean(np.array([1.0, math.nan]), seed=0)


def test_pairing_by_prompt_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(200)]
    base = generator.normal(0, 5, 200)
    better = base + 0.3 + generator.normal(0, 0.1, 200)
    paired = statistics.paired_difference(
        statistics.by_prompt(ids, better), statistics.by_prompt(ids[::-1], base[::-1]), seed=0
    )
    assert paired.mean == pytest.approx((better - base).mean())
    assert 0.2 < paired.ci_low < 0.3 < paired.ci_high < 0.4


def test_win_rate_counts_a_tie_half() -> None:
    ids = ["a", "b", "c", "d"]
    ours, others = (statistics.by_prompt(ids, row) for row in ([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]))
    estimate = statistics.paired_win_rate(ours, others, seed=0)
    assert estimate.mean == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert 0 <= estimate.ci_low <= estimate.mean <= estimate.ci_high <= 1


@settings(deadline=None)
@given(samples, samples)
def test_win_rate_equals_counting_by_hand(ours, others) -> None:
    rates = []
    for prompt in "abcd":
        mine = [v for p, v in ours if p == prompt and v is not None and math.isfinite(v)]
        theirs = [v for p, v in others if p == prompt and v is not None and math.isfinite(v)]
        games = [1.0 if a > b else 0.5 if a == b else 0.0 for a in mine for b in theirs]
        if games:
            rates.append(sum(games) / len(games))
    found = statistics.paired_win_rate(
        statistics.by_prompt(*columns(ours)), statistics.by_prompt(*columns(others)), seed=0
    )
    reverse = statistics.paired_win_rate(
        statistics.by_prompt(*columns(others)), statistics.by_prompt(*columns(ours)), seed=0
    )
    if not rates:
        assert found is reverse is None
        return
    assert found.mean == pytest.approx(sum(rates) / len(rates))
    assert found.num_prompts == len(rates)
    assert found.mean + reverse.mean == pytest.approx(1)
    against_oneself = statistics.paired_win_rate(
        statistics.by_prompt(*columns(ours)), statistics.by_prompt(*columns(ours)), seed=0
    )
    assert against_oneself.mean == pytest.approx(0.5)


@settings(deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows, randomness) -> None:
    shuffled = list(rows)
    randomness.shuffle(shuffled)
    assert statistics.mean_over_prompts(statistics.by_prompt(*columns(rows)), seed=0) == statistics.mean_over_prompts(
        statistics.by_prompt(*columns(shuffled)), seed=0
    )


def test_distinct_n() -> None:
    # Bigrams: (1 2) (2 1) (1 2) | (1 2): two distinct of four.
    assert statistics.distinct_n([[1, 2, 1, 2], [1, 2], [3]], 2) == 0.5
    assert statistics.distinct_n([[1, 2, 1, 2], [1, 2], [3]], 1) == 3 / 7
    assert statistics.distinct_n([["the", "cat"], ["the", "dog"]], 1) == 3 / 4
    assert statistics.distinct_n([[1], []], 2) is None
