"""Means, spreads, quantiles and edges of numbers of any magnitude; ordinary numbers exactly as numpy has them."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.core import magnitudes
from selfplay.inspect.web.charts.frame import nice_ticks

LARGEST = sys.float_info.max
finite = st.floats(allow_nan=False, allow_infinity=False)


def test_ordinary_numbers_are_as_numpy_has_them() -> None:
    values = np.random.default_rng(0).normal(size=999)
    assert magnitudes.mean(values) == float(values.mean()) and magnitudes.std(values) == float(values.std())
    assert magnitudes.std(values, ddof=1) == float(values.std(ddof=1))
    assert magnitudes.quantiles(values, (0.05, 0.5)) == np.quantile(values, (0.05, 0.5)).tolist()
    edges = np.histogram_bin_edges(values, bins=12)
    assert magnitudes.bin_edges(values.min(), values.max(), 12).tolist() == edges.tolist()
    assert magnitudes.bin_edges(3.0, 3.0, 4).tolist() == [2.5, 2.75, 3.0, 3.25, 3.5]


def test_large_and_tiny_numbers() -> None:
    assert magnitudes.mean(np.array([LARGEST, LARGEST])) == LARGEST
    assert magnitudes.std(np.array([1e308, -1e308])) == 1e308
    assert magnitudes.quantiles(np.array([1e308, -1e308]), (0.5,)) == [0.0]
    assert magnitudes.std(np.array([1e-200, -1e-200])) == 1e-200
    assert magnitudes.mean(np.zeros(3)) == magnitudes.std(np.zeros(3)) == 0.0
    assert magnitudes.finite(math.inf) is None and magnitudes.finite(1.0) == 1.0


@given(finite, finite, st.integers(1, 40))
def test_edges_hold_all_numbers_and_ascend(one: float, other: float, num_bins: int) -> None:
    low, high = min(one, other), max(one, other)
    edges = magnitudes.bin_edges(low, high, num_bins)
    assert 2 <= len(edges) <= num_bins + 1 and np.isfinite(edges).all() and (edges[1:] > edges[:-1]).all()
    assert edges[0] <= low and high <= edges[-1]
    assert np.histogram(np.array([low, high]), bins=edges)[0].sum() == 2


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(st.lists(finite, min_size=1, max_size=9))
def test_moments_are_finite(values: list[float]) -> None:
    array = np.array(values)
    found = [magnitudes.mean(array), magnitudes.std(array), *magnitudes.quantiles(array, (0.05, 0.5, 0.95))]
    assert np.isfinite(found).all()


@given(finite, finite)
def test_ticks_are_finite_and_few(one: float, other: float) -> None:
    ticks = nice_ticks(min(one, other), max(one, other))
    assert 2 <= len(ticks) <= 9 and np.isfinite(ticks).all() and ticks[0] < ticks[-1]
