"""Stage *select* as one pure call: margins, alignment potential, metric, cut, and the numbers worth recording.

The pool over which means and standard deviations are taken is what enters the ranking: pairs that an earlier filter
dropped, and pairs of zero margin, are out before (with w = 2.5 ties would rank among the best). It is the same pool
for every metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfplay.errors import ConfigError
from selfplay.selection import margins
from selfplay.selection.arrays import Bools, Floats, Ints, Reasons
from selfplay.selection.keep import keep_top
from selfplay.selection.metrics import Metric, find_metric
from selfplay.selection.reasons import METRIC_NOT_FINITE, NOT_SELECTED, ZERO_MARGIN, give_reason, is_free, no_reasons

Form = Literal["simpo", "dpo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPool:
    """P candidate pairs, in any row order; the columns of the pairs table that selection reads.

    Log-probs are sums over a response's tokens at temperature 1 (nats); None where they were not computed, NaN
    where one is missing. `drop_reason_P` holds what earlier filters said (see `reasons.give_reason`); None = no
    filter was applied.
    """

    pair_id: Sequence[str]
    reward_chosen_P: Floats
    reward_rejected_P: Floats
    num_tokens_chosen_P: Ints
    num_tokens_rejected_P: Ints
    policy_logp_chosen_P: Floats | None = None
    policy_logp_rejected_P: Floats | None = None
    reference_logp_chosen_P: Floats | None = None
    reference_logp_rejected_P: Floats | None = None
    drop_reason_P: Reasons | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in self.__slots__ if getattr(self, name) is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"columns of pairs differ in length: {sizes}")


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """What was asked and the pool's numbers: recorded with the pairs table. Plain values; `dataclasses.asdict` is JSON.

    Means and standard deviations are over the pairs that entered the ranking and have both margins
    (`num_standardized`); null without log-probs. Length gap = mean of num_tokens_chosen - num_tokens_rejected.
    `cut_value` is the lowest metric value kept. `drop_reasons` counts the pairs that are not kept, by reason.
    """

    metric: str
    keep: float
    seed: int
    form: str
    weight: float
    beta: float | None
    standardize: bool
    num_pairs: int
    num_ranked: int
    num_kept: int
    drop_reasons: dict[str, int]
    cut_value: float | None
    num_standardized: int
    explicit_margin_mean: float | None
    explicit_margin_std: float | None
    implicit_margin_abs_mean: float | None
    implicit_margin_abs_std: float | None
    effective_beta: float | None
    implicit_margin_all_zero: bool
    length_gap_mean: float | None
    length_gap_kept_mean: float | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Outcome for P pairs, in the pool's row order. Margins and potential are None without log-probs (never for R).

    `rank_P` is 1 for the best and 0 for a pair that was not ranked; `drop_reason_P` is None exactly where `kept_P`.
    """

    explicit_margin_P: Floats
    implicit_margin_P: Floats | None
    alignment_potential_P: Floats | None
    metric_value_P: Floats
    rank_P: Ints
    kept_P: Bools
    drop_reason_P: Reasons
    summary: SelectionSummary


def select(
    pairs: PairPool,
    *,
    metric: str | Metric,
    keep: float,
    form: Form = "simpo",
    weight: float = 1.0,
    standardize: bool = True,
    beta: float | None = None,
    seed: int = 0,
    allow_equal_reference: bool = False,
) -> Selection:
    """Rank the pairs by `metric` and keep the part `keep` (fraction as float or count as int, see `keep.num_to_keep`).

    `beta` belongs to the DPO form, which needs reference log-probs that differ from the policy's: with equal ones
    every implicit margin is 0 and alignment potential is the explicit margin under another name.
    `allow_equal_reference` is for a caller who has said so to the user (the first round against the initial
    policy). Raises ConfigError for a combination that cannot work and for an unknown metric.
    """
    rule = find_metric(metric) if isinstance(metric, str) else metric
    if rule.keeps_all and not (isinstance(keep, float) and keep == 1.0):
        raise ConfigError(f"metric {rule.name!r} keeps every pair, but keep is {keep!r}", "Set keep to 1.0.")

    explicit_P = margins.explicit_margin(pairs.reward_chosen_P, pairs.reward_rejected_P)
    implicit_P = _implicit_margin(pairs, form, beta)
    reason_P = no_reasons(len(pairs.pair_id)) if pairs.drop_reason_P is None else pairs.drop_reason_P
    reason_P = give_reason(reason_P, explicit_P == 0, ZERO_MARGIN)

    columns: dict[str, Any] = _columns(pairs) | {"explicit_margin": explicit_P}
    potential: margins.AlignmentPotential | None = None
    if implicit_P is not None:
        potential = margins.alignment_potential(
            explicit_P, implicit_P, is_free(reason_P), weight=weight, standardize=standardize
        )
        columns |= {"implicit_margin": implicit_P, "alignment_potential": potential.values_P}
    all_zero = potential is not None and potential.num_pool > 0 and potential.implicit == margins.Spread(0.0, 0.0)
    needs_implicit = not {"implicit_margin", "alignment_potential"}.isdisjoint(rule.inputs)
    if all_zero and needs_implicit and form == "dpo" and not allow_equal_reference:
        raise ConfigError(
            f"metric {rule.name!r} in the DPO form: every implicit margin is 0, since policy and reference agree",
            "Use form: simpo, or a reference other than the policy itself.",
        )

    value_P = rule.values(columns, seed)
    reason_P = give_reason(reason_P, ~np.isfinite(value_P), METRIC_NOT_FINITE)
    rank_P, kept_P = keep_top(np.where(is_free(reason_P), value_P, np.nan), pairs.pair_id, keep)
    reason_P = give_reason(reason_P, ~kept_P, NOT_SELECTED)

    gap_P = (pairs.num_tokens_chosen_P - pairs.num_tokens_rejected_P).astype(np.float64)
    summary = SelectionSummary(
        metric=rule.name,
        keep=keep,
        seed=seed,
        form=form,
        weight=weight,
        beta=beta,
        standardize=standardize,
        num_pairs=len(rank_P),
        num_ranked=int((rank_P > 0).sum()),
        num_kept=int(kept_P.sum()),
        drop_reasons=dict(sorted(Counter(reason_P[~kept_P].tolist()).items())),
        cut_value=float(value_P[kept_P].min()) if kept_P.any() else None,
        num_standardized=potential.num_pool if potential else 0,
        explicit_margin_mean=potential.explicit.mean if potential else None,
        explicit_margin_std=potential.explicit.std if potential else None,
        implicit_margin_abs_mean=potential.implicit.mean if potential else None,
        implicit_margin_abs_std=potential.implicit.std if potential else None,
        effective_beta=potential.effective_beta if potential else None,
        implicit_margin_all_zero=all_zero,
        length_gap_mean=_mean(gap_P[rank_P > 0]),
        length_gap_kept_mean=_mean(gap_P[kept_P]),
    )
    potential_P = potential.values_P if potential else None
    return Selection(explicit_P, implicit_P, potential_P, value_P, rank_P, kept_P, reason_P, summary)


def _implicit_margin(pairs: PairPool, form: Form, beta: float | None) -> Floats | None:
    """Signed implicit margin in the form asked for; None if there are no policy log-probs."""
    if (form == "dpo") != (beta is not None):
        raise ConfigError(f"form {form!r} with beta {beta}", "The DPO form needs a beta; the SimPO form has none.")
    if pairs.policy_logp_chosen_P is None or pairs.policy_logp_rejected_P is None:
        return None
    if form == "simpo":
        return margins.simpo_margin(
            pairs.policy_logp_chosen_P,
            pairs.policy_logp_rejected_P,
            pairs.num_tokens_chosen_P,
            pairs.num_tokens_rejected_P,
        )
    if pairs.reference_logp_chosen_P is None or pairs.reference_logp_rejected_P is None or beta is None:
        raise ConfigError(
            "the DPO form of the implicit margin needs reference log-probs, and these pairs have none",
            "Use form: simpo, or a reference other than the policy itself.",
        )
    return margins.dpo_margin(
        pairs.policy_logp_chosen_P,
        pairs.policy_logp_rejected_P,
        pairs.reference_logp_chosen_P,
        pairs.reference_logp_rejected_P,
        beta,
    )


def _columns(pairs: PairPool) -> dict[str, Any]:
    """The pool's columns by their table names: what a metric may ask for."""
    names = {name: name.removesuffix("_P") for name in pairs.__slots__ if name != "drop_reason_P"}
    return {column: getattr(pairs, name) for name, column in names.items() if getattr(pairs, name) is not None}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
