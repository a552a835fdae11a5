"""Several rewards of the same responses combined into one (stage *score*, the held-out evaluation, `select`).

reward = sum over parts of weight * n(part), where n is the z-score of a part over the pool or the raw number. Rewards of
different models live on different scales: the z-score gives a weight the same meaning for each. It makes the combined reward
relative to its pool (its mean there is about 0), so pools that are to be compared take the statistics of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfplay.selection.arrays import Floats
from selfplay.selection.margins import Spread, spread, z_scores

Normalize = Literal["zscore", "none"]


@dataclass(frozen=True, slots=True)
class Combined:
    """The combined reward of R responses, NaN where any part has no finite number, and mean and population standard
    deviation of each part: those that normalised it, or would have."""

    reward_R: Floats
    statistics: dict[str, Spread]


def part_statistics(parts: Mapping[str, Floats]) -> dict[str, Spread]:
    """Mean and population standard deviation of each part's finite values; finite themselves, however large the values."""
    return {name: spread(values_R[np.isfinite(values_R)]) for name, values_R in parts.items()}


def combine(
    parts: Mapping[str, Floats],
    weights: Mapping[str, float],
    normalize: Normalize,
    statistics: Mapping[str, Spread] | None = None,
) -> Combined:
    """Combine rewards of the same R responses, one array a part (NaN: this part has none for that response).

    Statistics of a part are over its finite values, whether or not the other parts have one there; `statistics` gives other
    ones to normalise by (those of another pool). With `zscore` a part without spread counts 0 for every response. Neither the
    order of the rows nor that of the parts changes a bit of the result. Raises ValueError when the parts do not fit
    together.
    """
    if not parts or {*parts} != {*weights} or (statistics is not None and {*parts} != {*statistics}):
        raise ValueError(f"parts {sorted(parts)} need weights and statistics each, got {sorted(weights)}")
    if len({len(values_R) for values_R in parts.values()}) > 1:
        raise ValueError("parts must be of the same responses: their lengths differ")
    if statistics is None:
        statistics = part_statistics(parts)
    names = sorted(parts)
    reward_R: Floats = np.zeros(len(parts[names[0]]))
    with np.errstate(over="ignore", invalid="ignore"):
        for name in names:
            values_R = np.where(np.isfinite(parts[name]), parts[name], np.nan)
            normal_R = z_scores(values_R, statistics[name]) if normalize == "zscore" else values_R
            reward_R = reward_R + weights[name] * normal_R
    # numbers near the largest float overflow to infinity: that is no reward
    reward_R = np.where(np.isfinite(reward_R), reward_R, np.nan)
    return Combined(reward_R, {name: statistics[name] for name in names})
