"""Several rewards of the same responses combined into one (stage *score*, the held-out evaluation, `select`).

reward = sum over parts of weight * n(part), where n is the z-score of a part over the pool or the raw number. Rewards of
different models live on different scales: the z-score gives a weight the same meaning for each. It makes the combined reward
relative to its pool (its mean there is about 0), so pools that are to be compared take the statistics of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from selfplay.selection.arrays import Floats
from selfplay.selection.margins import Spread, spread, z_scores

Normalize = Literal["zscore", "none"]


def part_statistics(parts: Mapping[str, Floats]) -> dict[str, Spread]:
    """Mean and population standard deviation of each part's finite values, whether or not the other parts have one there; finite
    themselves, however large the values."""
    return {name: spread(values_R[np.isfinite(values_R)]) for name, values_R in parts.items()}


def combine(
    parts: Mapping[str, Floats],
    weights: Mapping[str, float],
    normalize: Normalize,
    statistics: Mapping[str, Spread],
) -> Floats:
    """Combine rewards of the same R responses, one array a part (NaN: this part has none for that response). The combined reward
    is NaN where any part has no finite number.

    `statistics` are those to normalise by: `part_statistics` of these parts, or of another pool. With `zscore` a part without
    spread counts 0 for every response. Neither the order of the rows nor that of the parts changes a bit of the result. Raises
    ValueError when the parts do not fit together.
    """
    if not parts or not {*parts} == {*weights} == {*statistics}:
        raise ValueError(f"parts {sorted(parts)} need weights and statistics each, got {sorted(weights)}")
    if len({len(values_R) for values_R in parts.values()}) > 1:
        raise ValueError("parts must be of the same responses: their lengths differ")
    names = sorted(parts)
    reward_R: Floats = np.zeros(len(parts[names[0]]))
    with np.errstate(over="ignore", invalid="ignore"):
        for name in names:
            values_R = np.where(np.isfinite(parts[name]), parts[name], np.nan)
            normal_R = z_scores(values_R, statistics[name]) if normalize == "zscore" else values_R
            reward_R = reward_R + weights[name] * normal_R
    # numbers near the largest float overflow to infinity: that is no reward
    return np.where(np.isfinite(reward_R), reward_R, np.nan)
