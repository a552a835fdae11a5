"""The mathematics of a comparison: paired differences inside a block and across blocks, overlaps, shares. Pure functions.

Inside a block two arms answer the same prompts with the same seeds, so they are paired by prompt. Across blocks each block gives
one number, and blocks are the unit: the interval is Student's t over them. Blocks of one world share its start; where there are
several worlds the mean over worlds, each counted once, stands beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from selfplay.core import magnitudes

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of `num` numbers with its standard error and 95 % t-interval (null with fewer than two); `num_above` of them are
    above 0. Example: Mean(0.012, 0.004, 0.001, 0.023, 5, 5)"""

    mean: float
    se: float | None
    low: float | None
    high: float | None
    num: int
    num_above: int


def mean_of(values: Sequence[float] | Floats, level: float = 0.95) -> Mean | None:
    """Mean over the finite values (blocks, worlds or prompts); None where there is none."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    num = len(found)
    if not num:
        return None
    mean, above = magnitudes.mean(found), int((found > 0).sum())
    if num < 2:
        return Mean(mean, None, None, None, num, above)
    se = magnitudes.std(found, ddof=1) / math.sqrt(num)
    half = float(stats.t.ppf((1 + level) / 2, num - 1)) * se
    return Mean(mean, se, magnitudes.finite(mean - half), magnitudes.finite(mean + half), num, above)


def paired_by_prompt(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Mean | None:
    """Mean over the prompts that both have of (ours - theirs)."""
    return mean_of([ours[prompt] - theirs[prompt] for prompt in sorted(ours.keys() & theirs.keys())])


def over_worlds(values: Sequence[float], worlds: Sequence[str]) -> Mean | None:
    """Mean over worlds of the mean over a world's blocks; None with fewer than two worlds."""
    by_world: dict[str, list[float]] = {}
    for value, world in zip(values, worlds, strict=True):
        by_world.setdefault(world, []).append(value)
    if len(by_world) < 2:
        return None
    return mean_of([magnitudes.mean(np.array(by_world[world])) for world in sorted(by_world)])


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much two sets of kept pairs have in common: of their union, and of the first one."""

    jaccard: float
    share: float


def overlap(ours: pa.Array, theirs: pa.Array) -> Overlap | None:
    """Of two columns of different ids; None where one is empty."""
    if not len(ours) or not len(theirs):
        return None
    both: int = pc.sum(pc.is_in(ours, value_set=theirs)).as_py()
    return Overlap(both / (len(ours) + len(theirs) - both), both / len(ours))


def shares(groups: pa.Array) -> dict[str, float]:
    """Share of each group, by name, of a column of names."""
    counted = groups.value_counts()
    counts = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    return {name: counts[name] / len(groups) for name in sorted(counts)}


@dataclass(frozen=True, slots=True)
class Labels:
    """What the judge says of pairs that the reward ordered: fractions of the `num` pairs whose two responses it judged."""

    wrong: float
    tied: float
    num: int


def labels(gold_chosen: Floats, gold_rejected: Floats) -> Labels | None:
    """wrong: the judge finds the rejected response better than the chosen one; None where no pair was judged."""
    judged = np.isfinite(gold_chosen) & np.isfinite(gold_rejected)
    chosen, rejected = gold_chosen[judged], gold_rejected[judged]
    if not len(chosen):
        return None
    return Labels(float((chosen < rejected).mean()), float((chosen == rejected).mean()), len(chosen))


def standardized_gain(now: Mapping[str, float], start: Mapping[str, float]) -> float | None:
    """Mean gain over the start, in standard deviations of the start's prompt means; None where that is 0 or undefined."""
    gain = paired_by_prompt(now, start)
    spread = magnitudes.std(np.array([start[prompt] for prompt in sorted(start)])) if start else 0.0
    return magnitudes.finite(gain.mean / spread) if gain is not None and spread > 0 else None
