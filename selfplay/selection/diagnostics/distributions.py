"""Distribution of a quantity over the pool and over the kept pairs: mean, standard deviation, quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.core import magnitudes
from selfplay.selection.arrays import Bools, Floats

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the `num` finite values. `std` is the population's; `quantiles` go by name ("0.05") and are linearly
    interpolated. None where nothing is finite."""

    num: int
    mean: float | None
    std: float | None
    quantiles: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A quantity over the pairs of the pool and over the kept pairs among them."""

    pool: Moments
    kept: Moments


def distribution(values_P: NDArray[Any], kept_P: Bools) -> Distribution:
    """Distribution of the values of a pool of P pairs, of which `kept_P` are kept."""
    values_P = np.asarray(values_P, dtype=np.float64)
    return Distribution(moments(values_P), moments(values_P[kept_P]))


def moments(values: Floats) -> Moments:
    """Moments of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Moments(0, None, None, None)
    quantiles = magnitudes.quantiles(finite, QUANTILES)
    return Moments(
        num=len(finite),
        mean=magnitudes.mean(finite),
        std=magnitudes.std(finite),
        quantiles={str(at): value for at, value in zip(QUANTILES, quantiles, strict=True)},
    )
