"""What a selection did to its pool, in numbers: asked once by `select` and once by `show`, of arrays alone.

The *pool* are the pairs that entered the ranking: after the filters, before the metric's own rule and the cut. Above
SAMPLE pairs, whatever needs sorting is taken of a seeded sample of the rows, and `on` says so; the funnel, groups,
prompts and ties at the cut are always counted over all pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints, take_strings
from selfplay.selection.diagnostics.agreement import Overlap, overlap
from selfplay.selection.diagnostics.distributions import Distribution, distribution
from selfplay.selection.diagnostics.groups import Grouping, group_shares
from selfplay.selection.diagnostics.records import (
    Diagnostics,
    Funnel,
    SelectionWarning,
    cut,
    labels,
    lengths,
    margins,
    prompts,
)
from selfplay.selection.diagnostics.warnings import selection_warnings
from selfplay.selection.metrics import METRICS, columns_needed
from selfplay.selection.metrics.inputs import MEAN_LOGPS, POLICY_LOGPS, REFERENCE_LOGPS
from selfplay.selection.reasons import (
    EXCLUDED_BY_METRIC,
    METRIC_NOT_FINITE,
    NOT_SELECTED,
    OVER_GROUP_QUOTA,
    OVER_MAX_PER_PROMPT,
    DropReasons,
)
from selfplay.selection.select import PairPool, Selection, select

SAMPLE = 100_000
# Kernel densities of embeddings cost more than all else here together: compared in pools up to this size.
MOST_WITH_EMBEDDING = 20_000

# A control is not compared: `full` keeps everything, and what `random` would share is `expected_at_random`.
_CONTROLS = ("random", "full")
_OF_THE_RANKING = (METRIC_NOT_FINITE, EXCLUDED_BY_METRIC, OVER_MAX_PER_PROMPT)
_BELOW_THE_CUT = (NOT_SELECTED, OVER_GROUP_QUOTA)
_INPUTS = ("reward_chosen", "reward_rejected", "num_tokens_chosen", "num_tokens_rejected")
_GOLD = ("gold_reward_chosen", "gold_reward_rejected")


def diagnose(
    pool: PairPool,
    selection: Selection,
    *,
    groups: Mapping[str, Grouping] | None = None,
    prompt: Grouping | None = None,
    num_read: int | None = None,
    bad: Mapping[str, int] | None = None,
) -> Diagnostics:
    """What `selection` did to `pool`, which it was made from (same rows in the same order).

    `groups` are groupings of the pairs by name, `prompt` the prompt of each pair. `num_read` rows were read before the
    pool was made, of which `bad` (reason -> count) are not in it; for the funnel only. The labels are judged by the columns
    `gold_reward_chosen` and `gold_reward_rejected` of the pool, if it has them.
    """
    pool_P = entered(selection.drop_reason_P)
    rows = sample_rows(pool_P)
    kept_S = selection.kept_P[rows]
    columns_S = _columns(pool, selection, rows)
    overlaps, not_compared = _overlaps(pool, selection, rows, kept_S)
    shares = {name: group_shares(grouping, pool_P, selection.kept_P) for name, grouping in (groups or {}).items()}
    found = Diagnostics(
        on="all" if len(rows) == np.count_nonzero(pool_P) else "sample",
        num_seen=len(rows),
        funnel=_funnel(selection, int(np.count_nonzero(pool_P)), num_read, bad or {}),
        cut=cut(selection, columns_S),
        margins=margins(selection.summary, columns_S, kept_S, grouped=pool.group_P is not None),
        distributions=_distributions(columns_S, kept_S),
        lengths=lengths(columns_S, kept_S),
        labels=labels(columns_S, kept_S),
        prompts=None if prompt is None else prompts(prompt.code_P, pool_P, selection.kept_P),
        groups={name: found for name, found in shares.items() if found is not None},
        overlaps=overlaps,
    )
    return replace(found, warnings=(*selection_warnings(found, selection.summary), *not_compared))


def entered(reasons: DropReasons) -> Bools:
    """True for the pairs that entered the ranking: kept, below the cut, or left out by the metric itself."""
    names = (*_OF_THE_RANKING, *_BELOW_THE_CUT)
    by_code = np.array([True, *(name in names for name in reasons.names)], dtype=np.bool_)
    return np.asarray(by_code[reasons.code_P], dtype=np.bool_)


def sample_rows(pool_P: Bools) -> Ints:
    """Rows of the pool in ascending order; of more than SAMPLE a random choice of SAMPLE, always the same one."""
    rows = np.flatnonzero(pool_P).astype(np.int64, copy=False)
    if len(rows) <= SAMPLE:
        return rows
    return np.sort(rows[np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False, shuffle=False)])


def _columns(pool: PairPool, selection: Selection, rows: Ints) -> dict[str, Floats]:
    """The columns that are looked at, by name, of these rows."""
    found: dict[str, NDArray[Any] | None] = {
        "explicit_margin": selection.explicit_margin_P,
        "implicit_margin": selection.implicit_margin_P,
        "alignment_potential": selection.alignment_potential_P,
        "metric_value": selection.metric_value_P,
        **{name: pool.columns[name] for name in (*_INPUTS, *_GOLD) if name in pool.columns},
    }
    return {name: np.asarray(column[rows], dtype=np.float64) for name, column in found.items() if column is not None}


def _funnel(selection: Selection, num_pool: int, num_read: int | None, bad: Mapping[str, int]) -> Funnel:
    counts = selection.summary.drop_reasons
    return Funnel(
        num_read=num_read,
        bad=dict(bad),
        num_pairs=len(selection.kept_P),
        filtered={name: num for name, num in counts.items() if name not in (*_OF_THE_RANKING, *_BELOW_THE_CUT)},
        num_pool=num_pool,
        left_out={name: num for name, num in counts.items() if name in _OF_THE_RANKING},
        num_ranked=int(np.count_nonzero(selection.rank_P)),
        num_kept=int(np.count_nonzero(selection.kept_P)),
    )


def _distributions(columns_S: Mapping[str, Floats], kept_S: Bools) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for name, column_S in columns_S.items():
        found[name] = distribution(column_S, kept_S)
        if name == "implicit_margin":
            found["implicit_margin_abs"] = distribution(np.abs(column_S), kept_S)
    return {name: one for name, one in found.items() if one.pool.num}


def _overlaps(
    pool: PairPool, selection: Selection, rows: Ints, kept_S: Bools
) -> tuple[tuple[Overlap, ...], tuple[SelectionWarning, ...]]:
    """Overlap with what `select` would have kept of these rows by each other metric, at the same number (not with quotas or a
    cap per prompt); and a warning for each metric that refuses these columns, which is no fault of the selection."""
    asked, num_kept = selection.summary, int(kept_S.sum())
    limited = asked.keep_per_group is not None or asked.min_per_group is not None or asked.max_per_prompt is not None
    if not num_kept or limited:  # another metric would meet the same limits, which the sampled rows do not have
        return (), ()
    made = {
        "explicit_margin": selection.explicit_margin_P is not None,
        "implicit_margin": selection.implicit_margin_P is not None,
        "alignment_potential": selection.alignment_potential_P is not None,
        "dpo_implicit_margin": pool.columns.keys() >= {*POLICY_LOGPS, *REFERENCE_LOGPS},
    }
    there = {"pair_id", *(name for name in {**pool.columns, **made} if made.get(name, True))}
    metrics = [
        METRICS[name]
        for name in METRICS
        if name not in (*_CONTROLS, asked.metric) and there.issuperset(METRICS[name].inputs)
    ]
    if len(rows) > MOST_WITH_EMBEDDING:
        metrics = [metric for metric in metrics if "embedding" not in metric.inputs]
    # the margins themselves for a table from which they cannot be computed
    needed = {
        "explicit_margin",
        "implicit_margin",
        *MEAN_LOGPS,
        *(column for metric in metrics for column in columns_needed(metric, asked.implicit_margin)),
    }
    seen = PairPool(
        pair_id=take_strings(pool.pair_id, rows),
        columns={name: pool.columns[name][rows] for name in sorted(needed) if name in pool.columns},
        group_P=None if pool.group_P is None else pool.group_P[rows],
    )
    found: list[Overlap] = []
    refused: list[SelectionWarning] = []
    for metric in metrics:
        try:
            other = select(
                seen,
                metric=metric,
                keep=num_kept,
                implicit_margin="dpo" if asked.implicit_margin == "dpo" else "simpo",
                weight=asked.weight,
                standardize=asked.standardize,
                beta=asked.beta,
                seed=asked.seed,
                allow_equal_reference=True,
                keep_lowest=asked.keep_lowest or False,
                keep_zero_margins=asked.keep_zero_margins or False,
            )
        except ConfigError as error:
            refused.append(
                SelectionWarning(
                    "not_compared", f"what {metric.name} would have kept is not known: {error.message}", error.hint
                )
            )
        else:
            found.append(overlap(metric.name, kept_S, other.kept_P))
    return tuple(found), tuple(refused)
