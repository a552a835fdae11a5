"""Do two quantities agree: correlation of two columns, overlap of two kept sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Floats, run_starts
from selfplay.selection.margins import NOISE


@dataclass(frozen=True, slots=True)
class Correlation:
    """Of the pairs where both columns are finite (`num`). None where a column has no spread or there are fewer than
    two pairs."""

    num: int
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True, slots=True)
class Overlap:
    """What another metric would have kept of the same pairs, at the same number.

    `num_kept` is how many it would keep (fewer than asked for where its own rule leaves pairs out), `share` the part
    of the kept pairs that it would have kept too, `expected_at_random` what that part is for as many pairs drawn at
    random, `jaccard` common / either. None where nothing is kept.
    """

    metric: str
    num_kept: int
    share: float | None
    expected_at_random: float | None
    jaccard: float | None


def correlation(one_P: NDArray[Any], two_P: NDArray[Any]) -> Correlation:
    """Pearson's correlation and Spearman's (equal values share their mean rank)."""
    finite_P = np.isfinite(one_P) & np.isfinite(two_P)
    one, two = one_P[finite_P].astype(np.float64), two_P[finite_P].astype(np.float64)
    found = pearson(one, two)
    # the ranks of rounding noise have as much spread as any others
    return Correlation(len(one), found, None if found is None else pearson(mean_ranks(one), mean_ranks(two)))


def pearson(one: Floats, two: Floats) -> float | None:
    """Of finite values; None where either has no spread beyond rounding noise."""
    if len(one) < 2:
        return None
    scale_one, scale_two = float(np.abs(one).max()), float(np.abs(two).max())
    if not scale_one or not scale_two:
        return None
    # in units of the largest magnitude, so that neither huge nor tiny columns leave the range of a float
    one, two = one / scale_one, two / scale_two
    one, two = one - one.mean(), two - two.mean()
    std_one, std_two = float(np.sqrt((one * one).mean())), float(np.sqrt((two * two).mean()))
    if std_one <= NOISE or std_two <= NOISE:
        return None
    found = float((one * two).mean()) / (std_one * std_two)
    return min(1.0, max(-1.0, found))


def mean_ranks(values: Floats) -> Floats:
    """Ranks from 1, smallest first; equal values share the mean of their ranks: [5, 3, 5] -> [2.5, 1, 2.5]."""
    order = np.argsort(values, kind="stable")
    start = run_starts(values[order])
    size = np.diff(start, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(start + (size + 1) / 2, size)
    return ranks


def overlap(metric: str, kept_P: Bools, other_P: Bools) -> Overlap:
    """Overlap of the kept pairs with what `metric` would have kept, both out of the same P pairs."""
    num_kept, num_other = int(kept_P.sum()), int(other_P.sum())
    common = int((kept_P & other_P).sum())
    if not num_kept:
        return Overlap(metric, num_other, None, None, None)
    either = num_kept + num_other - common
    return Overlap(metric, num_other, common / num_kept, num_other / len(kept_P), common / either)
