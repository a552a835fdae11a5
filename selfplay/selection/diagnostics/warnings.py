"""What a user should look at first in a selection: each warning has a stable name, a sentence with the numbers and a hint.

Thresholds are rules of thumb, defined here only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfplay.core.format import percent
from selfplay.core.outcomes import SelectionSummary
from selfplay.selection.diagnostics.records import SelectionWarning
from selfplay.selection.metrics import METRICS

if TYPE_CHECKING:
    from selfplay.selection.diagnostics.records import Diagnostics, Lengths

# Shares and correlations of fewer pairs than this give no warning.
FEWEST = 20
# A kept part that is less diverse than this part of its pool has lost about half of its groups.
FEW_GROUPS = 0.6
# A group with this part of the pool counts as left out when it gets less than LEFT_OUT of its even share.
LARGE_GROUP, LEFT_OUT = 0.1, 0.2
# Fewer pairs than this expected of a group say nothing.
FEW_EXPECTED = 5.0
TIED = 0.1
NEGATIVE = 0.05
LENGTH_CORRELATION = 0.5
# By how many standard deviations of the pool's length gaps the mean gap of the kept pairs must be wider.
WIDER_GAP = 0.1
# Log-probs of a bfloat16 forward pass differ by about this much a token between batch sizes and engines.
NARROW = 0.02
# Differences of two shares below these are small, however certain.
MORE_WRONG = 0.02
MORE_LONGER = 0.02
# Standard errors between two shares before one is called higher.
CLEARLY = 3.0


def selection_warnings(diagnostics: Diagnostics, summary: SelectionSummary) -> tuple[SelectionWarning, ...]:
    """Warnings about a selection, the gravest first."""
    checks = (
        _size(diagnostics, summary),
        _margins(diagnostics, summary),
        _groups(diagnostics),
        _labels(diagnostics),
        _lengths(diagnostics),
        _cut(diagnostics),
    )
    return tuple(one for check in checks for one in check)


def _size(diagnostics: Diagnostics, summary: SelectionSummary) -> Iterator[SelectionWarning]:
    funnel = diagnostics.funnel
    rule = METRICS.get(summary.metric)
    if not funnel.num_kept:
        reasons = ", ".join(f"{name} {num}" for name, num in {**funnel.filtered, **funnel.left_out}.items())
        yield SelectionWarning(
            "nothing_kept",
            f"none of {funnel.num_pairs} pairs is kept (keep {summary.keep}; {funnel.num_ranked} were ranked)",
            f"Not ranked: {reasons}." if reasons else "Raise keep: it rounds to 0 pairs.",
        )
    elif funnel.num_kept == funnel.num_pool > 1 and not (rule and rule.keeps_all):
        yield SelectionWarning(
            "everything_kept",
            f"all {funnel.num_pool} pairs that entered the ranking are kept, so the metric chose nothing",
            "Lower keep, or use the metric full.",
        )


def _margins(diagnostics: Diagnostics, summary: SelectionSummary) -> Iterator[SelectionWarning]:
    found, rule = diagnostics.margins, METRICS.get(summary.metric)
    if found is None or rule is None or diagnostics.num_seen < FEWEST:
        return
    if found.implicit_abs_std == 0 and {"implicit_margin", "alignment_potential"} & set(rule.inputs):
        zero = found.implicit_abs_mean == 0
        what = "is 0" if zero else "has the same size"
        instead = ": the pairs are ranked by the explicit margin alone" if "alignment_potential" in rule.inputs else ""
        yield SelectionWarning(
            "implicit_margin_zero" if zero else "implicit_margin_flat",
            f"every implicit margin {what}, so {rule.name} does not see the policy{instead}",
            "In the DPO form policy and reference are the same weights: use implicit_margin: simpo, or another reference."
            if zero
            else "Check the log-probs: they should differ from response to response.",
        )
    elif (
        rule.name == "alignment_potential"
        and summary.implicit_margin == "simpo"
        and summary.standardize
        and found.implicit_abs_std is not None
        and found.implicit_abs_std < NARROW
    ):
        yield SelectionWarning(
            "implicit_margin_narrow",
            f"the implicit margins hardly differ (standard deviation of the size {found.implicit_abs_std:.4f} nats a "
            "token), but standardised they weigh as much as the explicit margin",
            "Differences this small may be rounding of the log-probs: compare with explicit_margin, or lower weight.",
        )
    if found.explicit_std == 0 and {"explicit_margin", "alignment_potential"} & set(rule.inputs):
        what = "the implicit margin alone ranks" if "alignment_potential" in rule.inputs else "only ids rank"
        yield SelectionWarning(
            "explicit_margin_flat",
            f"every explicit margin is {found.explicit_mean:.4g}, so {what} the pairs",
            "A reward with few values cannot rank pairs: use a finer reward, or another metric.",
        )
    pool, kept = found.explicit_negative_pool, found.explicit_negative_kept
    if pool is not None and max(pool, kept or 0.0) > NEGATIVE:
        yield SelectionWarning(
            "negative_margins",
            f"the reward is higher for the rejected response in {pool:.0%} of the pairs (of the kept: {percent(kept)})",
            "Label and reward contradict each other there. The raw form counts such a margin by its size."
            if not summary.standardize
            else "Label and reward contradict each other there: check which one is right before you train on the kept pairs.",
        )


def _groups(diagnostics: Diagnostics) -> Iterator[SelectionWarning]:
    for name, found in diagnostics.groups.items():
        if found.unevenness is None or found.unevenness_random_q99 is None or found.effective_kept is None:
            continue
        if found.unevenness <= found.unevenness_random_q99:
            continue
        left_out = [
            share.group
            for share in found.shares
            if share.ratio is not None
            and share.share_pool >= LARGE_GROUP
            and share.ratio < LEFT_OUT
            and share.num_expected >= FEW_EXPECTED
        ]
        if found.effective_kept < FEW_GROUPS * found.effective_pool or left_out:
            named = f"; hardly any of {', '.join(left_out)}" if left_out else ""
            yield SelectionWarning(
                "few_groups",
                f"by {name}, the kept pairs are as diverse as {found.effective_kept:.1f} equal groups, the pool as "
                f"{found.effective_pool:.1f}{named}: {found.unevenness:.0%} of them would have to be of other groups to "
                f"be even (random choices: below {found.unevenness_random_q99:.0%})",
                "Margins with different scales favour some groups regardless of the quality of their pairs: rank "
                "within the groups (group_column), and compare with random.",
            )


def _labels(diagnostics: Diagnostics) -> Iterator[SelectionWarning]:
    found = diagnostics.labels
    if found is None or found.wrong_pool is None or found.wrong_kept is None or found.num_judged_kept < FEWEST:
        return
    error = (found.wrong_pool * (1 - found.wrong_pool) / found.num_judged_kept) ** 0.5
    more = found.wrong_kept - found.wrong_pool
    if more > max(MORE_WRONG, CLEARLY * error):
        yield SelectionWarning(
            "more_wrong_labels",
            f"by the gold reward {found.wrong_kept:.0%} of the kept pairs have chosen and rejected exchanged, "
            f"of the pool {found.wrong_pool:.0%}",
            "The metric favours pairs in which the reward is wrong: read them, and compare with another metric.",
        )


def _lengths(diagnostics: Diagnostics) -> Iterator[SelectionWarning]:
    found = diagnostics.lengths
    if found is None:
        return
    num_kept = round(diagnostics.num_seen * diagnostics.funnel.num_kept / max(1, diagnostics.funnel.num_pool))
    if diagnostics.funnel.num_kept < diagnostics.funnel.num_pool and num_kept >= FEWEST:
        yield from _lengths_of_kept(found, num_kept)
    if found.gap_and_explicit is None or found.gap_and_explicit.pearson is None or found.gap_and_explicit.num < FEWEST:
        return
    r = found.gap_and_explicit.pearson
    if abs(r) > LENGTH_CORRELATION:
        yield SelectionWarning(
            "reward_follows_length",
            f"the reward margin is correlated with the length gap ({r:+.2f}): the reward prefers "
            f"{'longer' if r > 0 else 'shorter'} responses",
            "Training on large margins then teaches length. pairs.length_penalty corrects this.",
        )


def _lengths_of_kept(found: Lengths, num_kept: int) -> Iterator[SelectionWarning]:
    """What the selection of `num_kept` pairs did to the lengths."""
    gaps = (found.gap_mean_pool, found.gap_mean_kept, found.gap_std_pool)
    if gaps[0] is not None and gaps[1] is not None and gaps[2]:
        pool, kept, std = gaps[0], gaps[1], gaps[2]
        if abs(kept) - abs(pool) > max(WIDER_GAP * std, CLEARLY * std / num_kept**0.5):
            yield SelectionWarning(
                "length_gap_wider",
                f"the selection widens the length gap: chosen - rejected is {kept:+.1f} tokens on average among the kept pairs, "
                f"{pool:+.1f} in the pool",
                f"Training on the kept pairs teaches {'longer' if kept > 0 else 'shorter'} responses: limit the gap with "
                "pairs.max_length_gap, or compare with another metric.",
            )
    pool_share, kept_share = found.chosen_longer_pool, found.chosen_longer_kept
    if pool_share is None or kept_share is None or kept_share <= 0.5:
        return
    error = (pool_share * (1 - pool_share) / num_kept) ** 0.5
    if kept_share - pool_share > max(MORE_LONGER, CLEARLY * error):
        yield SelectionWarning(
            "chosen_longer",
            f"the chosen response is the longer one in {kept_share:.0%} of the kept pairs, in {pool_share:.0%} of the pool",
            "Training on the kept pairs teaches longer responses: limit the gap with pairs.max_length_gap, or compare with "
            "another metric.",
        )


def _cut(diagnostics: Diagnostics) -> Iterator[SelectionWarning]:
    found = diagnostics.cut
    if found is None or found.num_tied == found.num_tied_kept:
        return
    if diagnostics.num_seen >= FEWEST and found.num_tied_kept > TIED * diagnostics.funnel.num_kept:
        few = found.num_distinct_rewards
        rewards = f"; the rewards have {few} distinct values" if few is not None and few <= 20 else ""
        yield SelectionWarning(
            "ties_at_cut",
            f"{found.num_tied} pairs share the metric value at the cut and {found.num_tied_kept} of them are kept, by the "
            f"order of their ids{rewards}",
            "The choice among them is arbitrary: use a finer reward or a metric with more values, or another keep.",
        )
