"""Margins and alignment potential against plain-Python arithmetic."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selfplay.selection import margins

numbers = st.integers(-64, 64).map(lambda n: n / 16)
columns = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40).map(lambda rows: np.array(rows).T.copy())


def everyone(values):
    return np.ones(len(values), dtype=bool)


def test_simpo_margin_is_the_difference_of_mean_logps() -> None:
    margin = margins.simpo_margin(np.array([-10.0]), np.array([-3.0]), np.array([5]), np.array([2]))
    assert margin.tolist() == [-10 / 5 - -3 / 2]


def test_simpo_margin_of_a_response_without_tokens_is_not_finite() -> None:
    margin = margins.simpo_margin(np.array([0.0, -1.0]), np.array([-3.0, -3.0]), np.array([0, 0]), np.array([2, 2]))
    assert not np.isfinite(margin).any()


def test_dpo_margin_is_beta_times_the_logratio_difference() -> None:
    margin = margins.dpo_margin(np.array([-10.0]), np.array([-3.0]), np.array([-12.0]), np.array([-2.0]), beta=0.1)
    assert margin.tolist() == [pytest.approx(0.1 * ((-10 + 12) - (-3 + 2)))]


def test_dpo_margin_is_zero_where_reference_and_policy_agree() -> None:
    logp = np.array([-1.7, -33.3])
    assert margins.dpo_margin(logp, logp * 2, logp, logp * 2, beta=0.3).tolist() == [0.0, 0.0]


@given(columns)
def test_spread_and_z_scores_equal_the_textbook(table) -> None:
    values = table[0]
    found = margins.spread(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found.std == pytest.approx(statistics.pstdev(values), abs=1e-12)
    z = margins.z_scores(values, found)
    assert np.isfinite(z).all()
    if found.std:
        assert z.mean() == pytest.approx(0, abs=1e-9)
        assert z.std() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-9, 1e17, 1 / 3])
@pytest.mark.parametrize("num", [1, 3, 10_000])
def test_a_column_of_equal_values_has_no_spread(value: float, num: int) -> None:
    values = np.full(num, value)
    assert margins.spread(values).std == 0
    assert margins.z_scores(values, margins.spread(values)).tolist() == [0.0] * num


def test_rounding_noise_is_no_spread_but_a_small_spread_is() -> None:
    noise = np.array([0.3 - 0.1, 0.2 - 0.0, 0.9 - 0.7, 1.2 - 1.0])
    assert len(set(noise.tolist())) > 1
    assert margins.spread(noise).std == 0
    assert margins.spread(np.array([1.0, 1.0 + 1e-9])).std == pytest.approx(5e-10)


def test_spread_of_an_empty_pool() -> None:
    assert margins.spread(np.empty(0)) == margins.Spread(0.0, 0.0)


@given(columns, st.randoms(use_true_random=False))
def test_spread_does_not_depend_on_row_order_to_the_last_bit(table, randomness) -> None:
    shuffled = table[0].tolist()
    randomness.shuffle(shuffled)
    assert margins.spread(np.array(shuffled)) == margins.spread(table[0])


def slow_potential(explicit, implicit, weight: float) -> list[float]:
    sizes = [abs(v) for v in implicit]
    mean_r, std_r = statistics.fmean(explicit), statistics.pstdev(explicit)
    mean_l, std_l = statistics.fmean(sizes), statistics.pstdev(sizes)
    z_r = [(v - mean_r) / std_r if std_r else 0.0 for v in explicit]
    z_l = [(v - mean_l) / std_l if std_l else 0.0 for v in sizes]
    return [a - weight * b for a, b in zip(z_r, z_l, strict=True)]


@given(columns, st.sampled_from([0.0, 1.0, 2.5]))
def test_standardised_potential_equals_the_textbook(table, weight: float) -> None:
    explicit, implicit = table
    found = margins.alignment_potential(explicit, implicit, everyone(explicit), weight=weight)
    assert found.values_P == pytest.approx(slow_potential(explicit.tolist(), implicit.tolist(), weight), abs=1e-9)


@given(columns, st.sampled_from([0.0, 1.0, 2.5]))
def test_raw_potential(table, weight: float) -> None:
    explicit, implicit = table
    found = margins.alignment_potential(explicit, implicit, everyone(explicit), weight=weight, standardize=False)
    assert found.values_P.tolist() == [abs(r) - weight * abs(m) for r, m in zip(explicit, implicit, strict=True)]
    assert found.effective_beta == weight


@given(columns, st.sampled_from([1.0, 2.5]))
def test_ranking_equals_that_of_explicit_minus_effective_beta_times_implicit(table, weight: float) -> None:
    explicit, implicit = table
    found = margins.alignment_potential(explicit, implicit, everyone(explicit), weight=weight)
    if found.effective_beta is None:
        assert 0 in (found.explicit.std, found.implicit.std)
        return
    assert found.effective_beta == pytest.approx(weight * explicit.std() / np.abs(implicit).std())
    other = explicit - found.effective_beta * np.abs(implicit)
    # One is the other times std(R), plus a constant: the same order, ties included, up to rounding.
    difference = other - found.values_P * found.explicit.std
    assert difference == pytest.approx(np.full(len(difference), difference[0]), abs=1e-9)


@given(columns, st.sampled_from([0.01, 0.5, 3.0, 100.0]), st.sampled_from([-10.0, 0.0, 7.0]))
def test_affine_changes_of_the_reward_do_not_change_the_standardised_potential(
    table, scale: float, shift: float
) -> None:
    explicit, implicit = table
    assume(np.ptp(explicit) > 0)  # a flat margin stays flat only up to the rewards' own rounding
    rewards_rejected = np.linspace(-1, 1, len(explicit))
    changed = margins.explicit_margin(scale * (rewards_rejected + explicit) + shift, scale * rewards_rejected + shift)
    before = margins.alignment_potential(explicit, implicit, everyone(explicit))
    after = margins.alignment_potential(changed, implicit, everyone(explicit))
    assert after.values_P == pytest.approx(before.values_P, abs=1e-6)


def test_pairs_outside_the_pool_and_non_finite_ones_do_not_shape_it() -> None:
    explicit = np.array([1.0, 2.0, 3.0, 1000.0, math.nan, 5.0])
    implicit = np.array([0.5, -1.0, 0.25, 99.0, 1.0, math.inf])
    pool = np.array([True, True, True, False, True, True])
    found = margins.alignment_potential(explicit, implicit, pool)
    alone = margins.alignment_potential(explicit[:3], implicit[:3], everyone(explicit[:3]))
    assert found.num_pool == 3
    assert (found.explicit, found.implicit, found.effective_beta) == (
        alone.explicit,
        alone.implicit,
        alone.effective_beta,
    )
    assert found.values_P[:3].tolist() == alone.values_P.tolist()
    assert np.isfinite(found.values_P).tolist() == [True, True, True, True, False, False]


def test_without_spread_in_one_column_the_other_ranks_alone() -> None:
    values = np.array([3.0, 1.0, 2.0])
    flat_implicit = margins.alignment_potential(values, np.full(3, 0.1), everyone(values))
    flat_explicit = margins.alignment_potential(np.full(3, 0.1), values, everyone(values))
    assert flat_implicit.effective_beta is flat_explicit.effective_beta is None
    assert np.argsort(-flat_implicit.values_P).tolist() == [0, 2, 1]
    assert np.argsort(-flat_explicit.values_P).tolist() == [1, 2, 0]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_effective_beta_beyond_the_largest_float_is_none() -> None:
    found = margins.alignment_potential(np.array([1e308, 0.0]), np.array([1e-3, 2e-3]), everyone([0, 1]))
    assert found.effective_beta is None and np.isfinite(found.values_P).all()


def test_the_z_scores_of_a_group_do_not_depend_on_the_magnitude_of_another() -> None:
    values, groups = np.array([1e-3, 2e-3, 4e-3, 1e308, -1e308]), np.array([0, 0, 0, 1, 1])
    assert margins.z_scores_in_groups(values, groups)[:3].tolist() == (
        margins.z_scores_in_groups(values[:3], groups[:3]).tolist()
    )
