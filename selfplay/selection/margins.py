"""Explicit and implicit reward margins, and the alignment potential of a pair.

Source: Huang et al., "Larger or Smaller Reward Margins to Select Preferences for LLM Alignment?", ICML 2025
(arXiv 2503.01864), and the authors' released code, which ranks by z(R) - w z(|L|) with the SimPO-form L.
Departures: means and standard deviations are taken over pairs that can be ranked at all (ties, identical and
non-finite pairs left out), and a column without spread counts as zero instead of dividing by zero.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from selfplay.core.magnitudes import HUGE, finite, units_of_groups
from selfplay.selection.arrays import Bools, Floats, Ints, run_starts

# A standard deviation below this share of the largest magnitude is rounding noise: a column of equal values has one
# of about 1e-16, and dividing by it would turn the noise into z-scores of order one.
NOISE = 1e-12


def explicit_margin(reward_chosen_P: Floats, reward_rejected_P: Floats) -> Floats:
    """R = r(x, y_w) - r(x, y_l), in the reward's unit. Not negative for best-versus-worst pairs."""
    with np.errstate(invalid="ignore", over="ignore"):
        return _wide(reward_chosen_P) - _wide(reward_rejected_P)


def simpo_margin(
    policy_logp_chosen_P: Floats, policy_logp_rejected_P: Floats, num_tokens_chosen_P: Ints, num_tokens_rejected_P: Ints
) -> Floats:
    """Signed implicit margin, SimPO form: difference of mean log-probs (nats per token; no beta, no reference).

    Log-probs are sums over the response's tokens; a response without tokens makes the margin non-finite.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        margin_P = _wide(policy_logp_chosen_P) / num_tokens_chosen_P
        margin_P -= _wide(policy_logp_rejected_P) / num_tokens_rejected_P
    return margin_P


def dpo_margin(
    policy_logp_chosen_P: Floats,
    policy_logp_rejected_P: Floats,
    reference_logp_chosen_P: Floats,
    reference_logp_rejected_P: Floats,
    beta: float,
) -> Floats:
    """Signed implicit margin, DPO form: beta times the difference of log-ratios to the reference (nats, summed)."""
    with np.errstate(invalid="ignore", over="ignore"):
        chosen_P = _wide(policy_logp_chosen_P) - _wide(reference_logp_chosen_P)
        return beta * (chosen_P - (_wide(policy_logp_rejected_P) - _wide(reference_logp_rejected_P)))


def _wide(column_P: Floats) -> Floats:
    """In float64: the differences of narrow numbers lose digits or wrap around."""
    return column_P.astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and population standard deviation of a column over a pool; `std` is 0 where there is nothing but noise."""

    mean: float
    std: float


def spread(values_P: Floats) -> Spread:
    """Mean and population standard deviation (ddof 0) of finite values; zeros for an empty pool.

    The values are summed in sorted order, so that the result, and with it the last bit of every z-score, does not
    depend on the order of rows.
    """
    if not len(values_P):
        return Spread(0.0, 0.0)
    values_P = np.sort(values_P.astype(np.float64, copy=False))
    largest = max(abs(float(values_P[0])), abs(float(values_P[-1])))
    if largest > HUGE or 0 < largest < 1 / HUGE:
        scaled = spread(values_P / largest)
        return Spread(largest * scaled.mean, largest * scaled.std)
    mean = float(values_P.mean())
    std = math.sqrt(float(np.square(values_P - mean).mean()))
    return Spread(mean, std if std > NOISE * largest else 0.0)


def z_scores(values_P: Floats, over: Spread) -> Floats:
    """(value - mean) / std; zeros where the pool has no spread (non-finite values stay non-finite)."""
    if over.std > HUGE:  # the difference of two such numbers may be no float
        return values_P / over.std - over.mean / over.std
    return (values_P - over.mean) / over.std if over.std > 0 else 0.0 * values_P


def z_scores_in_groups(values_P: Floats, group_P: Ints) -> Floats:
    """z-scores with the mean and the population standard deviation of each group's finite values.

    Zeros in a group without spread, as in one of a single value; non-finite values stay as they are. `group_P` are
    integer codes. Like `spread`, independent of row order to the last bit.
    """
    z_P = np.array(values_P, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(values_P))
    if not len(rows):
        return z_P
    # by group, and by value inside it: sums in an order of their own
    rows = rows[np.lexsort((values_P[rows], group_P[rows]))]
    value, start_G = values_P[rows], run_starts(group_P[rows])
    size_G = np.diff(start_G, append=len(rows))
    group = np.repeat(np.arange(len(start_G)), size_G)
    value = value / units_of_groups(value, start_G)[group]  # z-scores have no unit
    mean_G = np.add.reduceat(value, start_G) / size_G
    centred = value - mean_G[group]
    std_G = np.sqrt(np.add.reduceat(centred**2, start_G) / size_G)
    largest_G = np.maximum(np.abs(value[start_G]), np.abs(value[start_G + size_G - 1]))
    flat_G = std_G <= NOISE * largest_G
    z_P[rows] = np.where(flat_G[group], 0.0, centred / np.where(flat_G, 1.0, std_G)[group])
    return z_P


@dataclass(frozen=True, slots=True)
class AlignmentPotential:
    """Alignment potential of P pairs and the numbers behind it, to be recorded with the pairs.

    Statistics are over the `num_pool` pairs of the pool; `implicit` is of the absolute implicit margin.
    `effective_beta` is the b for which ranking by R - b |L| is the same ranking: w std(R) / std(|L|) when
    standardised, w when raw. It depends on the pool; None where either column has no spread, since the other one
    then ranks alone (or nothing does), where it is beyond the largest float, and with groups, each of which has one of its own.
    """

    values_P: Floats
    num_pool: int
    explicit: Spread
    implicit: Spread
    effective_beta: float | None


def alignment_potential(
    explicit_margin_P: Floats,
    implicit_margin_P: Floats,
    pool_P: Bools,
    *,
    weight: float = 1.0,
    standardize: bool = True,
    group_P: Ints | None = None,
) -> AlignmentPotential:
    """Alignment potential: z(R) - weight z(|L|) when standardised (the released code's rule), else |R| - weight |L|.

    z-scores use means and standard deviations over the pairs of `pool_P` with two finite margins; the pairs outside
    the pool get their value by the same numbers. Non-finite margins give non-finite values.

    With `group_P` (integer codes) the z-scores are taken within each group of the pool; pairs outside the pool get no
    value then (NaN). The raw form knows no groups.
    """
    pool_P = pool_P & np.isfinite(explicit_margin_P) & np.isfinite(implicit_margin_P)
    size_P = np.abs(implicit_margin_P)
    with ThreadPoolExecutor() as threads:  # most of it is sorting, which other threads need not wait for
        explicit, implicit = threads.map(spread, (explicit_margin_P[pool_P], size_P[pool_P]))
    effective_beta: float | None
    with np.errstate(invalid="ignore", over="ignore"):
        if standardize and group_P is not None:
            z_P = z_scores_in_groups(np.where(pool_P, explicit_margin_P, np.nan), group_P)
            values_P = z_P - weight * z_scores_in_groups(np.where(pool_P, size_P, np.nan), group_P)
            effective_beta = None
        elif standardize:
            values_P = z_scores(explicit_margin_P, explicit) - weight * z_scores(size_P, implicit)
            flat = explicit.std == 0 or implicit.std == 0
            effective_beta = None if flat else finite(weight * explicit.std / implicit.std)
        else:
            values_P = np.abs(explicit_margin_P) - weight * size_P
            effective_beta = weight
    return AlignmentPotential(values_P, int(pool_P.sum()), explicit, implicit, effective_beta)
