"""Stage *select* as one pure call: margins, alignment potential, metric, cut, and the numbers worth recording.

The pool over which means and standard deviations are taken is what enters the ranking: pairs that an earlier filter
dropped, and pairs whose margin is zero or not finite, are out before (with w = 2.5 ties would rank among the best). It is
the same pool for every metric, and a metric sees no other pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import SelectionSummary
from selfplay.selection import margins
from selfplay.selection.arrays import Bools, Floats, Ints, Strings, take_strings
from selfplay.selection.keep import Quotas, keep_top, over_cap
from selfplay.selection.metrics import Metric, find_metric
from selfplay.selection.metrics.inputs import MEAN_LOGPS, NUM_TOKENS, POLICY_LOGPS, REFERENCE_LOGPS, REWARDS, made_of
from selfplay.selection.reasons import (
    EXCLUDED_BY_METRIC,
    MARGIN_NOT_FINITE,
    METRIC_NOT_FINITE,
    NOT_SELECTED,
    OVER_GROUP_QUOTA,
    OVER_MAX_PER_PROMPT,
    ZERO_MARGIN,
    DropReasons,
    is_kept,
    no_reasons,
    with_reason,
)

ImplicitMargin = Literal["simpo", "dpo"]
# Columns that `select` makes itself: a metric reads these, not columns of the same name in the input.
_MADE = ("implicit_margin", "alignment_potential", "dpo_implicit_margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPool:
    """P candidate pairs, in any row order. Ids are unique.

    `columns` go by the names of the pairs table: arrays over P pairs, NaN where a value is missing. Log-probs are sums
    over a response's tokens at temperature 1 (nats). `drop_reason_P` holds what earlier filters said (see
    `reasons.with_reason`); None = no filter was applied. `group_P` are integer codes of the pairs' groups; with them
    every metric is standardised within its group, None = one pool. `prompt_P` are codes of the pairs' prompts; only a cap on
    the pairs of a prompt reads them.

    Example: PairPool(pair_id=["a", "b"], columns={"reward_chosen": ..., "reward_rejected": ...})
    """

    pair_id: Strings
    columns: Mapping[str, Any]
    drop_reason_P: DropReasons | None = None
    group_P: Ints | None = None
    prompt_P: Ints | None = None

    def __post_init__(self) -> None:
        sizes = {"pair_id": len(self.pair_id)} | {name: len(column) for name, column in self.columns.items()}
        if self.drop_reason_P is not None:
            sizes["drop_reason_P"] = len(self.drop_reason_P)
        codes = {"group_P": self.group_P, "prompt_P": self.prompt_P}
        sizes |= {name: len(code_P) for name, code_P in codes.items() if code_P is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"columns of pairs differ in length: {sizes}")

    def __len__(self) -> int:
        return len(self.pair_id)


@dataclass(frozen=True, slots=True)
class Selection:
    """Outcome for P pairs, in the pool's row order. A margin is None where its inputs are missing.

    `metric_value_P` is NaN for pairs that did not enter the ranking and -inf for those that the metric's own rule
    leaves out. `rank_P` is 1 for the best and 0 for a pair that was not ranked; `drop_reason_P` is None exactly where
    `kept_P`.
    """

    explicit_margin_P: Floats | None
    implicit_margin_P: Floats | None
    alignment_potential_P: Floats | None
    metric_value_P: Floats
    rank_P: Ints
    kept_P: Bools
    drop_reason_P: DropReasons
    summary: SelectionSummary


def select(
    pairs: PairPool,
    *,
    metric: str | Metric,
    keep: float,
    implicit_margin: ImplicitMargin = "simpo",
    weight: float = 1.0,
    standardize: bool = True,
    beta: float | None = None,
    seed: int = 0,
    options: Mapping[str, float] | None = None,
    allow_equal_reference: bool = False,
    quotas: Quotas | None = None,
    max_per_prompt: int | None = None,
    keep_lowest: bool = False,
    keep_zero_margins: bool = False,
) -> Selection:
    """Rank the pairs by `metric` and keep the part `keep` (fraction as float or count as int, see `keep.num_to_keep`).

    `keep_lowest` ranks the lowest value first. `quotas` say how many kept pairs each group gives. Of more than `max_per_prompt`
    pairs of a prompt those that rank first are ranked, and `keep` is a part of what is ranked. `keep_zero_margins` leaves pairs
    of equal rewards in the pool, as the released rule does.

    `options` are the metric's own (see `Metric.options`). `beta` belongs to the DPO form, which needs reference
    log-probs that differ from the policy's: with equal ones every implicit margin is 0 and alignment potential is the
    explicit margin under another name. `allow_equal_reference` is for a caller who has said so to the user (the first
    round against the initial policy). Raises ConfigError for a combination that cannot work, an unknown metric or
    option, and an input that is missing.
    """
    rule = find_metric(metric) if isinstance(metric, str) else metric
    options = dict(options or {})
    rule.check_options(options)
    if rule.keeps_all and not (isinstance(keep, float) and keep == 1.0):
        raise ConfigError(f"metric {rule.name!r} keeps every pair, but keep is {keep!r}", "Set keep to 1.0.")
    notes: list[str] = []
    explicit_P = _explicit_margin(pairs.columns, notes)
    implicit_P = _implicit_margin(pairs.columns, implicit_margin, beta, notes)
    reason_P = no_reasons(len(pairs)) if pairs.drop_reason_P is None else pairs.drop_reason_P
    if explicit_P is not None and not keep_zero_margins:
        reason_P = with_reason(reason_P, explicit_P == 0, ZERO_MARGIN)
    if explicit_P is not None and not _missing(pairs.columns, REWARDS):
        finite_P = np.logical_and(*(np.isfinite(reward_P) for reward_P in _all(pairs.columns, REWARDS)))
        reason_P = with_reason(reason_P, finite_P & ~np.isfinite(explicit_P), MARGIN_NOT_FINITE)

    potential: margins.AlignmentPotential | None = None
    if implicit_P is not None and explicit_P is not None:
        potential = margins.alignment_potential(
            explicit_P,
            implicit_P,
            is_kept(reason_P),
            weight=weight,
            standardize=standardize,
            group_P=pairs.group_P,
        )
    all_zero = potential is not None and potential.num_pool > 0 and potential.implicit == margins.Spread(0.0, 0.0)
    reads_implicit = not {"implicit_margin", "alignment_potential"}.isdisjoint(rule.inputs)
    if all_zero and reads_implicit and implicit_margin == "dpo" and not allow_equal_reference:
        raise ConfigError(
            f"metric {rule.name!r} in the DPO form: every implicit margin is 0, since policy and reference agree",
            "Use implicit_margin: simpo, or a reference other than the policy itself.",
        )

    columns: dict[str, Any] = {name: column for name, column in pairs.columns.items() if name not in _MADE}
    if "pair_id" in rule.inputs:  # a Python object each: not for a metric that does not read them
        columns["pair_id"] = take_strings(pairs.pair_id, np.arange(len(pairs))).to_numpy(zero_copy_only=False)
    if explicit_P is not None:
        columns["explicit_margin"] = explicit_P
    if implicit_P is not None:
        columns["implicit_margin"] = implicit_P
    if potential is not None:
        columns["alignment_potential"] = potential.values_P
    if "dpo_implicit_margin" in rule.inputs and not _missing(pairs.columns, POLICY_LOGPS + REFERENCE_LOGPS):
        columns["dpo_implicit_margin"] = _dpo_margin(pairs.columns, 1.0)
    value_P = _values_of_pool(rule, columns, is_kept(reason_P), seed, options, notes)
    if pairs.group_P is not None and not (rule.name == "alignment_potential" and standardize):
        value_P = margins.z_scores_in_groups(value_P, pairs.group_P)
    reason_P = with_reason(reason_P, np.isneginf(value_P), EXCLUDED_BY_METRIC)
    reason_P = with_reason(reason_P, ~np.isfinite(value_P), METRIC_NOT_FINITE)
    ranked_P = value_P
    if max_per_prompt is not None:
        if pairs.prompt_P is None:
            raise ValueError("max_per_prompt needs the prompts of the pairs")
        over_P = over_cap(value_P, pairs.pair_id, pairs.prompt_P, max_per_prompt, lowest=keep_lowest)
        reason_P = with_reason(reason_P, over_P, OVER_MAX_PER_PROMPT)
        ranked_P = np.where(over_P, np.nan, value_P)
    rank_P, kept_P, over_quota_P = keep_top(ranked_P, pairs.pair_id, keep, lowest=keep_lowest, quotas=quotas)
    reason_P = with_reason(reason_P, over_quota_P, OVER_GROUP_QUOTA)
    reason_P = with_reason(reason_P, ~kept_P, NOT_SELECTED)
    if quotas is not None:
        notes.extend(_short_groups(quotas, rank_P > 0, kept_P))

    summary = SelectionSummary(
        metric=rule.name,
        options=rule.options | options,
        keep=keep,
        seed=seed,
        implicit_margin=implicit_margin,
        weight=weight,
        beta=beta,
        standardize=standardize,
        num_pairs=len(rank_P),
        num_groups=None if pairs.group_P is None else len(np.unique(pairs.group_P)),
        num_ranked=int(np.count_nonzero(rank_P)),
        num_kept=int(np.count_nonzero(kept_P)),
        drop_reasons=reason_P.counts(),
        cut_value=_cut_value(value_P[kept_P], keep_lowest) if quotas is None else None,
        num_standardized=potential.num_pool if potential else 0,
        explicit_margin_mean=potential.explicit.mean if potential else None,
        explicit_margin_std=potential.explicit.std if potential else None,
        implicit_margin_abs_mean=potential.implicit.mean if potential else None,
        implicit_margin_abs_std=potential.implicit.std if potential else None,
        effective_beta=potential.effective_beta if potential else None,
        implicit_margin_all_zero=all_zero,
        length_gap_mean=_length_gap(pairs.columns, rank_P > 0),
        length_gap_kept_mean=_length_gap(pairs.columns, kept_P),
        notes=notes,
        **_recorded(quotas, max_per_prompt, keep_lowest, keep_zero_margins),
    )
    potential_P = potential.values_P if potential else None
    return Selection(explicit_P, implicit_P, potential_P, value_P, rank_P, kept_P, reason_P, summary)


def _cut_value(kept: Floats, lowest: bool) -> float | None:
    """The last metric value kept; None where nothing is."""
    if not len(kept):
        return None
    return float(kept.max() if lowest else kept.min())


def _recorded(
    quotas: Quotas | None, max_per_prompt: int | None, keep_lowest: bool, keep_zero_margins: bool
) -> dict[str, Any]:
    """What was asked beyond the plain cut, as the summary has it: nothing of what was not asked."""
    return {
        "keep_per_group": None if quotas is None else quotas.most,
        "min_per_group": (quotas.least or None) if quotas is not None else None,
        "max_per_prompt": max_per_prompt,
        "keep_lowest": keep_lowest or None,
        "keep_zero_margins": keep_zero_margins or None,
    }


def _short_groups(quotas: Quotas, ranked_P: Bools, kept_P: Bools) -> list[str]:
    """A sentence where groups have fewer kept pairs than `least`."""
    num_ranked, num_kept = (np.bincount(quotas.group_P[rows_P]) for rows_P in (ranked_P, kept_P))
    num_kept = np.pad(num_kept, (0, len(num_ranked) - len(num_kept)))
    short = int(np.count_nonzero((num_kept < quotas.least) & (num_ranked > 0)))
    if not short:
        return []
    return [
        f"{short} of {np.count_nonzero(num_ranked)} groups have fewer than min_per_group = {quotas.least} kept pairs: they have "
        "no more that are ranked, or `keep` is too small for all groups."
    ]


def _values_of_pool(
    rule: Metric, columns: Mapping[str, Any], pool_P: Bools, seed: int, options: Mapping[str, float], notes: list[str]
) -> Floats:
    """The metric of the pairs in the pool; NaN outside it. Only what the metric reads is cut out of the table."""
    rule.check_inputs(columns)
    rows = np.flatnonzero(pool_P)
    value_P = np.full(len(pool_P), np.nan)
    read = {name: columns[name][rows] for name in rule.inputs}
    read.setdefault("pair_id", rows)  # for their number
    value_P[rows] = rule.values(read, seed, options, notes)
    return value_P


def _missing(columns: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in columns]


def _explicit_margin(columns: Mapping[str, Any], notes: list[str]) -> Floats | None:
    """R from the two rewards; where they are missing, a column `explicit_margin` of the input is taken as it is."""
    if not _missing(columns, REWARDS):
        return margins.explicit_margin(columns["reward_chosen"], columns["reward_rejected"])
    if "explicit_margin" not in columns:
        return None
    notes.append("The explicit margin is the input's own column: reward_chosen and reward_rejected are not both there.")
    return np.asarray(columns["explicit_margin"], dtype=np.float64)


def _implicit_margin(
    columns: Mapping[str, Any], implicit_margin: ImplicitMargin, beta: float | None, notes: list[str]
) -> Floats | None:
    """Signed implicit margin of the kind asked for; None if there are no policy log-probs or token counts. Where it cannot
    be computed, log-probs per token or a column `implicit_margin` of the input take its place."""
    if (implicit_margin == "dpo") != (beta is not None):
        raise ConfigError(
            f"implicit_margin: {implicit_margin} with beta {beta}", "Set beta for dpo only: simpo has none."
        )
    if _missing(columns, made_of("implicit_margin", implicit_margin)):
        if implicit_margin == "simpo" and not _missing(columns, MEAN_LOGPS):
            chosen, rejected = _all(columns, MEAN_LOGPS)
            notes.append("The implicit margin is the difference of the input's log-probs per token.")
            return margins.explicit_margin(chosen, rejected)  # a difference of two numbers, in blocks
        if "implicit_margin" in columns:
            notes.append("The implicit margin is the input's own column: it cannot be computed from other columns.")
            return np.asarray(columns["implicit_margin"], dtype=np.float64)
    if _missing(columns, POLICY_LOGPS):
        return None
    if implicit_margin == "simpo":
        return (
            None if _missing(columns, NUM_TOKENS) else margins.simpo_margin(*_all(columns, POLICY_LOGPS + NUM_TOKENS))
        )
    if _missing(columns, REFERENCE_LOGPS) or beta is None:
        raise ConfigError(
            "the DPO form of the implicit margin needs reference log-probs, and these pairs have none",
            "Use implicit_margin: simpo, or a reference other than the policy itself.",
        )
    return _dpo_margin(columns, beta)


def _dpo_margin(columns: Mapping[str, Any], beta: float) -> Floats:
    policy, reference = _all(columns, POLICY_LOGPS), _all(columns, REFERENCE_LOGPS)
    return margins.dpo_margin(policy[0], policy[1], reference[0], reference[1], beta)


def _all(columns: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [columns[name] for name in names]


def _length_gap(columns: Mapping[str, Any], where_P: Bools) -> float | None:
    if _missing(columns, NUM_TOKENS) or not where_P.any():
        return None
    chosen_P, rejected_P = _all(columns, NUM_TOKENS)
    return float(np.subtract(chosen_P, rejected_P, dtype=np.float64).mean(where=where_P))
