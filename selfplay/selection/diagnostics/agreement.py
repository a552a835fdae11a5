"""Agreement of two quantities: correlation of two columns, overlap of two kept sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.core.magnitudes import in_units
from selfplay.selection.arrays import Bools, Floats
from selfplay.selection.margins import spread


@dataclass(frozen=True, slots=True)
class Correlation:
    """Of the `num` pairs where both columns are finite. None where a column has no spread or `num` is 1."""

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


def correlation(one_P: NDArray[Any], two_P: NDArray[Any]) -> Correlation | None:
    """Pearson's correlation and Spearman's (equal values share their mean rank); None where no pair has both."""
    from scipy import stats  # half a second: not for the commands that correlate nothing

    finite_P = np.isfinite(one_P) & np.isfinite(two_P)
    one, two = one_P[finite_P].astype(np.float64), two_P[finite_P].astype(np.float64)
    if not len(one):
        return None
    # the ranks of rounding noise have as much spread as any others
    if len(one) < 2 or not (_varies(one) and _varies(two)):
        return Correlation(len(one), None, None)
    one, two = in_units(one)[0], in_units(two)[0]
    return Correlation(len(one), float(stats.pearsonr(one, two).statistic), float(stats.spearmanr(one, two).statistic))


def _varies(values: Floats) -> bool:
    """Whether there is more than rounding noise. In units of the largest magnitude: tiny squares would be 0."""
    largest = float(np.abs(values).max())
    return largest > 0 and spread(values / largest).std > 0


def overlap(metric: str, kept_P: Bools, other_P: Bools) -> Overlap:
    """Overlap of the kept pairs with what `metric` would have kept, both out of the same P pairs."""
    num_kept, num_other = int(kept_P.sum()), int(other_P.sum())
    common = int((kept_P & other_P).sum())
    if not num_kept:
        return Overlap(metric, num_other, None, None, None)
    either = num_kept + num_other - common
    return Overlap(metric, num_other, common / num_kept, num_other / len(kept_P), common / either)
