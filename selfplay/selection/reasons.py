"""Every reason this package can give for a response that is in no pair, or a pair that is not kept.

They are written to the `reason` and `drop_reason` columns, so they are part of the on-disk format. A reason that
scoring gave (a failed reward call, a response too long for the reward model) is passed through as it is and is not
listed here.
"""

from __future__ import annotations

import numpy as np

from selfplay.selection.arrays import Bools, Reasons

# A response is in no pair.
EMPTY = "empty"
TRUNCATED = "truncated"
REWARD_NOT_FINITE = "reward_not_finite"
PROMPT_HAS_TOO_FEW_RESPONSES = "prompt_has_too_few_responses"
IDENTICAL_RESPONSES = "identical_responses"
ZERO_MARGIN = "zero_margin"
NOT_EXTREME = "not_extreme"

# A pair is not kept (ZERO_MARGIN and IDENTICAL_RESPONSES too, where pairs come from outside a run).
TOO_LONG_FOR_TRAINING = "too_long_for_training"
METRIC_NOT_FINITE = "metric_not_finite"
NOT_SELECTED = "not_selected"

RESPONSE_REASONS: dict[str, str] = {
    EMPTY: "the response has no text beyond its end token (white space is no text)",
    TRUNCATED: "the response was cut (finish_reason other than stop), so it must not be taught as an ending",
    REWARD_NOT_FINITE: "the reward is missing, NaN or infinite, and scoring gave no reason of its own",
    PROMPT_HAS_TOO_FEW_RESPONSES: "the only usable response of its prompt",
    IDENTICAL_RESPONSES: "the prompt's usable responses, or its best and its worst, have the same text",
    ZERO_MARGIN: "the prompt's best and worst response have the same reward",
    NOT_EXTREME: "usable, but other responses of the prompt were taken as its best and its worst",
}

PAIR_REASONS: dict[str, str] = {
    ZERO_MARGIN: "chosen and rejected have the same reward",
    IDENTICAL_RESPONSES: "chosen and rejected have the same text",
    TOO_LONG_FOR_TRAINING: "the prompt and one of its responses exceed the training length",
    METRIC_NOT_FINITE: "the metric has no finite value for the pair",
    NOT_SELECTED: "ranked, but below the cut",
}


def no_reasons(num_rows: int) -> Reasons:
    """`num_rows` times None."""
    return np.full(num_rows, None, dtype=object)


def is_free(reasons: Reasons) -> Bools:
    """True where there is no reason yet."""
    free: Bools = np.equal(reasons, np.array(None, dtype=object)).astype(np.bool_)
    return free


def give_reason(reasons: Reasons, where: Bools, reason: str) -> Reasons:
    """A copy of `reasons` with `reason` in the rows of `where` that have none: the first reason given stays."""
    given = reasons.copy()
    given[where & is_free(reasons)] = reason
    return given
