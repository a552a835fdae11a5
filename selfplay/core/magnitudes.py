"""Means, spreads and histogram edges of numbers of any magnitude. Rewards are a user's numbers: they may be near the largest
float, differ in the last bit, or be denormal, where sums, squares and differences leave the range of a float.

Numbers of ordinary magnitude are computed exactly as numpy does it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The squares of larger numbers, and of numbers smaller than 1 / HUGE, leave the range of a float.
HUGE = 1e100
_LARGEST = float(np.finfo(np.float64).max)


def in_units(values: Floats) -> tuple[Floats, float]:
    """The finite values in a unit in which they can be added, subtracted and squared, and that unit: 1 for ordinary numbers,
    else the largest magnitude."""
    largest = float(np.abs(values).max()) if len(values) else 0.0
    if largest == 0 or 1 / HUGE <= largest <= HUGE:
        return values, 1.0
    return values / largest, largest


def units_of_groups(values_N: Floats, start_G: Ints) -> Floats:
    """The unit of `in_units` of each group of consecutive values; `start_G` are the positions at which the groups begin."""
    largest_G = np.maximum.reduceat(np.abs(values_N), start_G) if len(start_G) else np.empty(0)
    ordinary_G = (largest_G == 0) | ((largest_G >= 1 / HUGE) & (largest_G <= HUGE))
    return np.where(ordinary_G, 1.0, largest_G)


def mean(values: Floats) -> float:
    """Mean of finite values, of which there is at least one."""
    scaled, unit = in_units(values)
    return unit * float(scaled.mean())


def std(values: Floats, ddof: int = 0) -> float:
    """Standard deviation of finite values; `ddof` 0 is the population's."""
    scaled, unit = in_units(values)
    return finite(unit * float(scaled.std(ddof=ddof))) or 0.0


def quantiles(values: Floats, at: tuple[float, ...]) -> list[float]:
    """Quantiles of finite values, linearly interpolated."""
    scaled, unit = in_units(values)
    return [unit * value for value in np.quantile(scaled, at).tolist()]


def finite(value: float) -> float | None:
    """The number, or None if JSON cannot represent it."""
    return value if math.isfinite(value) else None


def bin_edges(low: float, high: float, num_bins: int) -> Floats:
    """Ascending edges of at most `num_bins` bins from `low` to `high`, all finite and different. There are fewer bins where the
    two are so close that no other numbers lie between them; around equal numbers the bins are as wide as 1 together."""
    if low == high:
        half = max(0.5, abs(low) * 1e-3)
        edges = np.linspace(low - 0.5, high + 0.5, num_bins + 1)
        if not (np.diff(edges) > 0).all():
            low, high = max(low - half, -_LARGEST), min(high + half, _LARGEST)
            edges = bin_edges(low, high, num_bins)
        return edges
    if high - low < _LARGEST / 4:
        return np.unique(np.linspace(low, high, num_bins + 1))
    return 4 * np.linspace(low / 4, high / 4, num_bins + 1)
