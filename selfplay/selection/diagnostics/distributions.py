"""Distribution of a quantity over the pool and over the kept pairs: moments, quantiles, one histogram for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Floats

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
NUM_BINS = 12
# The inner bins span the values between these quantiles, so that a single outlier does not put all else in one bin.
_SPAN = (0.005, 0.995)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of finite values; `num_not_finite` counts the others. `std` is the population's. None where nothing is finite.

    `quantiles` are by name ("0.05"), linearly interpolated.
    """

    num: int
    num_not_finite: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    quantiles: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A quantity over the pairs of the pool and over the kept ones among them.

    `edges` has one number more than `pool_counts` and `kept_counts`; the bins between are of one width over the bulk
    of the values, the first and the last reach to the smallest and the largest (of whole
    numbers to the next one above). All three are empty where no value is
    finite.
    """

    pool: Moments
    kept: Moments
    edges: list[float]
    pool_counts: list[int]
    kept_counts: list[int]


def distribution(values_P: NDArray[Any], kept_P: Bools) -> Distribution:
    """Distribution of the values of a pool of P pairs, of which `kept_P` are kept."""
    values_P = np.asarray(values_P, dtype=np.float64)
    finite_P = np.isfinite(values_P)
    pool, kept = values_P[finite_P], values_P[finite_P & kept_P]
    edges = _edges(pool, whole=bool(np.all(pool == np.rint(pool))))
    return Distribution(
        moments(values_P),
        moments(values_P[kept_P]),
        edges,
        _counts(pool, edges),
        _counts(kept, edges),
    )


def moments(values: Floats) -> Moments:
    """Moments of the finite values."""
    finite = values[np.isfinite(values)]
    lost = len(values) - len(finite)
    if not len(finite):
        return Moments(0, lost, None, None, None, None, None)
    quantiles = np.quantile(finite, QUANTILES).tolist()
    return Moments(
        num=len(finite),
        num_not_finite=lost,
        mean=float(finite.mean()),
        std=float(finite.std()),
        min=float(finite.min()),
        max=float(finite.max()),
        quantiles={str(at): value for at, value in zip(QUANTILES, quantiles, strict=True)},
    )


def _edges(values: Floats, *, whole: bool) -> list[float]:
    """Edges of at most NUM_BINS bins; of whole numbers the inner edges lie at whole numbers too."""
    if not len(values):
        return []
    smallest, largest = float(values.min()), float(values.max())
    if smallest == largest:
        return [smallest, largest]
    low, high = np.quantile(values, _SPAN).tolist()
    if low == high:
        low, high = smallest, largest
    if whole:
        low, high = np.floor(low), np.ceil(high) + 1
        step = max(1.0, np.ceil((high - low) / NUM_BINS))
        inner = np.arange(low, high + step, step)[:-1]
        largest += 1  # a bin holds its lower edge and not its upper one
    else:
        inner = np.linspace(low, high, NUM_BINS + 1)
    inner = inner[(inner > smallest) & (inner < largest)]
    return [smallest, *inner.tolist(), largest]


def _counts(values: Floats, edges: Sequence[float]) -> list[int]:
    """Values by bin; a bin holds its lower edge, the last one also its upper edge."""
    if not edges:
        return []
    inner = np.asarray(edges[1:-1])
    num: list[int] = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(edges) - 1).tolist()
    return num
