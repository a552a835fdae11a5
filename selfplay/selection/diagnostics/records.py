"""The parts of a selection's diagnostics that are a few numbers each: funnel, cut, margins, lengths, labels, prompts.

Arrays over the pairs that are looked at (`_S`: the pool, or a sample of it) are float64 with NaN for what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfplay.core import magnitudes
from selfplay.core.magnitudes import HUGE, in_units
from selfplay.core.outcomes import SelectionSummary
from selfplay.selection.arrays import Bools, Floats, Ints
from selfplay.selection.diagnostics.agreement import Correlation, Overlap, correlation
from selfplay.selection.diagnostics.distributions import Distribution
from selfplay.selection.diagnostics.groups import GroupShares
from selfplay.selection.margins import spread
from selfplay.selection.select import Selection


@dataclass(frozen=True, slots=True)
class Funnel:
    """From rows read to pairs kept; each step with what was lost before it, by reason.

    `num_read` rows (None: not known) less `bad` are `num_pairs` pairs where a row is a pair; less `filtered` they are
    the `num_pool` that entered the ranking; less `left_out` (no finite metric value, the metric's own rule,
    or the cap per prompt) the `num_ranked`, of which `num_kept` are above the cut.
    """

    num_read: int | None
    bad: dict[str, int]
    num_pairs: int
    filtered: dict[str, int]
    num_pool: int
    left_out: dict[str, int]
    num_ranked: int
    num_kept: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The last metric value kept. `num_tied` ranked pairs have it, of which `num_tied_kept` are kept, by the order of
    their ids. `num_distinct_rewards` is over both rewards of the pairs looked at; None without rewards."""

    value: float
    num_tied: int
    num_tied_kept: int
    num_distinct_rewards: int | None


@dataclass(frozen=True, slots=True)
class Margins:
    """Explicit margin R and implicit margin L of the pool; None where a margin is missing.

    `explicit_negative_...` is the share of pairs whose chosen reward is below the rejected one, `implicit_negative`
    that of pairs whose rejected response the policy finds likelier. How far the pool is from the policy:
    `implicit_abs_mean` and `implicit_abs_std` of |L| (nats a token in the SimPO form), and `implicit_abs_tail`, the
    95 % quantile of |L| over its median: 2.9 for a normal distribution around 0, more where a part of the pairs lies
    far from the rest. `effective_beta` is that of the ranking by R - b |L| (see `margins.AlignmentPotential`).
    `potential_explicit_share` and `potential_implicit_share` are the parts of the alignment potential's variance that
    come from its two terms (covariance of term and potential over its variance; they add to 1, and one may be
    negative); None without spread or where margins are standardised in groups.
    """

    explicit_mean: float | None
    explicit_std: float | None
    explicit_negative_pool: float | None
    explicit_negative_kept: float | None
    implicit_mean: float | None
    implicit_std: float | None
    implicit_negative: float | None
    implicit_abs_mean: float | None
    implicit_abs_std: float | None
    implicit_abs_tail: float | None
    effective_beta: float | None
    potential_explicit_share: float | None
    potential_implicit_share: float | None
    explicit_and_implicit: Correlation | None
    explicit_and_implicit_abs: Correlation | None


@dataclass(frozen=True, slots=True)
class Lengths:
    """Length gap = num_tokens_chosen - num_tokens_rejected, its mean over the pool and over the kept pairs, its standard
    deviation over the pool, and the share of pairs whose chosen response is the longer one. `gap_and_explicit` correlates
    gap and explicit margin."""

    gap_mean_pool: float | None
    gap_mean_kept: float | None
    gap_std_pool: float | None
    chosen_longer_pool: float | None
    chosen_longer_kept: float | None
    gap_and_explicit: Correlation | None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels against a gold reward: a label is wrong where the gold reward of chosen is below that of rejected.

    Shares are of the pairs with both gold rewards (`num_judged_...`); equal gold rewards are not wrong.
    """

    num_judged_pool: int
    num_judged_kept: int
    wrong_pool: float | None
    wrong_kept: float | None


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts with at least one pair in the pool, and among the kept; the most kept pairs that one prompt has."""

    num_pool: int
    num_kept: int
    most_kept_pairs: int


def cut(selection: Selection, columns_S: Mapping[str, Floats]) -> Cut | None:
    """Ties at the cut, over all ranked pairs; None where nothing is kept."""
    value = selection.summary.cut_value
    if value is None:
        return None
    tied_P = (selection.metric_value_P == value) & (selection.rank_P > 0)
    rewards = [columns_S[name] for name in ("reward_chosen", "reward_rejected") if name in columns_S]
    return Cut(
        value=value,
        num_tied=int(np.count_nonzero(tied_P)),
        num_tied_kept=int(np.count_nonzero(tied_P & selection.kept_P)),
        num_distinct_rewards=len(np.unique(_finite(np.concatenate(rewards)))) if rewards else None,
    )


def margins(summary: SelectionSummary, columns_S: Mapping[str, Floats], kept_S: Bools, *, grouped: bool) -> Margins:
    """Spread of the margins and how they go together."""
    missing_S = np.full(len(kept_S), np.nan)
    explicit_S, implicit_S = columns_S.get("explicit_margin", missing_S), columns_S.get("implicit_margin", missing_S)
    size_S = np.abs(implicit_S)
    explicit_mean, explicit_std = _mean_and_std(explicit_S)
    implicit_mean, implicit_std = _mean_and_std(implicit_S)
    size_mean, size_std = _mean_and_std(size_S)
    share = None if grouped else _explicit_share(summary, columns_S)
    return Margins(
        explicit_mean=explicit_mean,
        explicit_std=explicit_std,
        explicit_negative_pool=_share_negative(explicit_S),
        explicit_negative_kept=_share_negative(explicit_S[kept_S]),
        implicit_mean=implicit_mean,
        implicit_std=implicit_std,
        implicit_negative=_share_negative(implicit_S),
        implicit_abs_mean=size_mean,
        implicit_abs_std=size_std,
        implicit_abs_tail=_tail(size_S),
        effective_beta=summary.effective_beta,
        potential_explicit_share=share,
        potential_implicit_share=None if share is None else 1.0 - share,
        explicit_and_implicit=correlation(explicit_S, implicit_S),
        explicit_and_implicit_abs=correlation(explicit_S, size_S),
    )


def lengths(columns_S: Mapping[str, Floats], kept_S: Bools) -> Lengths | None:
    """Length gap of pool and kept pairs; None without token counts."""
    if "num_tokens_chosen" not in columns_S or "num_tokens_rejected" not in columns_S:
        return None
    gap_S = columns_S["num_tokens_chosen"] - columns_S["num_tokens_rejected"]
    explicit_S = columns_S.get("explicit_margin")
    return Lengths(
        gap_mean_pool=_mean(gap_S),
        gap_mean_kept=_mean(gap_S[kept_S]),
        gap_std_pool=_mean_and_std(gap_S)[1],
        chosen_longer_pool=_share_negative(-gap_S),
        chosen_longer_kept=_share_negative(-gap_S[kept_S]),
        gap_and_explicit=None if explicit_S is None else correlation(gap_S, explicit_S),
    )


def labels(columns_S: Mapping[str, Floats], kept_S: Bools) -> Labels | None:
    """Wrong labels by the gold rewards; None where no pair has both."""
    if "gold_reward_chosen" not in columns_S or "gold_reward_rejected" not in columns_S:
        return None
    chosen_S, rejected_S = columns_S["gold_reward_chosen"], columns_S["gold_reward_rejected"]
    judged_S = np.isfinite(chosen_S) & np.isfinite(rejected_S)
    # the sign alone: a difference may be beyond the largest float
    margin_S = np.where(judged_S, (chosen_S > rejected_S) * 1.0 - (chosen_S < rejected_S), np.nan)
    if not judged_S.any():
        return None
    return Labels(
        num_judged_pool=int(judged_S.sum()),
        num_judged_kept=int((judged_S & kept_S).sum()),
        wrong_pool=_share_negative(margin_S),
        wrong_kept=_share_negative(margin_S[kept_S]),
    )


def prompts(prompt_P: Ints, pool_P: Bools, kept_P: Bools) -> Prompts:
    """Distinct prompts, counted over all pairs."""
    num_kept = np.bincount(prompt_P[kept_P])
    return Prompts(
        num_pool=int(np.count_nonzero(np.bincount(prompt_P[pool_P]))),
        num_kept=int(np.count_nonzero(num_kept)),
        most_kept_pairs=int(num_kept.max(initial=0)),
    )


def _explicit_share(summary: SelectionSummary, columns_S: Mapping[str, Floats]) -> float | None:
    """The explicit term's part of the variance of the alignment potential."""
    if "alignment_potential" not in columns_S or "explicit_margin" not in columns_S:
        return None
    potential_S, explicit_S = columns_S["alignment_potential"], columns_S["explicit_margin"]
    if summary.standardize:
        term_S = explicit_S / (summary.explicit_margin_std or np.inf)
    else:
        term_S = np.abs(explicit_S)
    finite_S = np.isfinite(potential_S) & np.isfinite(term_S)
    potential, term = potential_S[finite_S], term_S[finite_S]
    std = spread(potential).std
    if not 0 < std < HUGE:
        return None
    _, unit = in_units(potential)
    return float(np.cov(term / unit, potential / unit, ddof=0)[0, 1]) / (std / unit) ** 2


def _mean_and_std(values: Floats) -> tuple[float, float] | tuple[None, None]:
    """Of the finite values; rounding noise is no spread."""
    finite = _finite(values)
    if not len(finite):
        return None, None
    found = spread(finite)
    return found.mean, found.std


def _tail(size: Floats) -> float | None:
    finite = _finite(size)
    if not len(finite):
        return None
    median, high = magnitudes.quantiles(finite, (0.5, 0.95))
    return magnitudes.finite(high / median) if median > 0 else None


def _share_negative(values: Floats) -> float | None:
    finite = _finite(values)
    return float((finite < 0).mean()) if len(finite) else None


def _mean(values: Floats) -> float | None:
    finite = _finite(values)
    return magnitudes.mean(finite) if len(finite) else None


def _finite(values: Floats) -> Floats:
    finite: Floats = values[np.isfinite(values)]
    return finite


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """A selection seen from outside. `dataclasses.asdict` is JSON: finite numbers or None.

    `on` is "all", or "sample" where distributions, margins, lengths, labels and overlaps are of `num_seen` pairs drawn
    from the pool. A part is None (or empty) where its inputs are missing or the pool is empty. `overlaps` are at the
    same number of pairs, each metric with its default options; `groups` go by the name of the grouping; `warnings` have
    the gravest first.
    """

    on: Literal["all", "sample"]
    num_seen: int
    funnel: Funnel
    cut: Cut | None
    margins: Margins | None
    distributions: dict[str, Distribution]
    lengths: Lengths | None
    labels: Labels | None
    prompts: Prompts | None
    groups: dict[str, GroupShares]
    overlaps: tuple[Overlap, ...]
    warnings: tuple[SelectionWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class SelectionWarning:
    """Example: SelectionWarning("ties_at_cut", "120 pairs share the metric value at the cut, ...", "Use a finer ...")"""

    name: str
    message: str
    hint: str
