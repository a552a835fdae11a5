"""The responses of a round as arrays, each with what makes it unusable by itself (stage *pair*, first half)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfplay.selection.arrays import Bools, Floats, Ints, Reasons, codes
from selfplay.selection.reasons import EMPTY, REWARD_NOT_FINITE, TRUNCATED, give_reason, is_free


@dataclass(frozen=True, slots=True)
class ResponsePool:
    """What pair builders see of R responses, in any row order. Built by `response_pool`.

    `prompt_R` and `text_R` are codes: equal numbers mean the same prompt *id* (never prompt text: equal texts may
    stay two prompts) and exactly the same response text. Text and not token ids decides identity, because text is
    what the reward model judged. `response_index_R` is unique within a prompt. `rewards_R` is in the reward's own
    unit. `reason_R` is None where the response is usable.
    """

    prompt_R: Ints
    response_index_R: Ints
    rewards_R: Floats
    text_R: Ints
    reason_R: Reasons

    @property
    def usable_R(self) -> Bools:
        return is_free(self.reason_R)


def response_pool(
    *,
    prompt_ids: Sequence[str],
    response_index: Sequence[int] | Ints,
    rewards: Sequence[float | None] | Floats,
    texts: Sequence[str],
    finish_reasons: Sequence[str],
    drop_reasons: Sequence[str | None],
) -> ResponsePool:
    """Columns of R responses, row by row, as a pool. A missing reward is None or NaN.

    Where several reasons apply, the first of these is given: scoring's own `drop_reasons`, empty, truncated, reward
    not finite. Raises ValueError for columns of different lengths and for a response index that is twice in a
    prompt.
    """
    columns = (prompt_ids, response_index, rewards, texts, finish_reasons, drop_reasons)
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"columns of responses differ in length: {[len(column) for column in columns]}")
    rewards_R = np.asarray(rewards, dtype=np.float64)
    reason_R: Reasons = np.array(drop_reasons, dtype=object)
    # `isspace` stops at the first letter, where `strip` would copy the text.
    empty_R = np.array([not text or text.isspace() for text in texts], dtype=np.bool_)
    truncated_R = np.array([reason != "stop" for reason in finish_reasons], dtype=np.bool_)
    reason_R = give_reason(reason_R, empty_R, EMPTY)
    reason_R = give_reason(reason_R, truncated_R, TRUNCATED)
    reason_R = give_reason(reason_R, ~np.isfinite(rewards_R), REWARD_NOT_FINITE)
    prompt_R, index_R = codes(prompt_ids), np.asarray(response_index, dtype=np.int64)
    _check_unique(prompt_R, index_R, prompt_ids)
    return ResponsePool(prompt_R, index_R, rewards_R, codes(texts), reason_R)


def _check_unique(prompt_R: Ints, index_R: Ints, prompt_ids: Sequence[str]) -> None:
    order = np.lexsort((index_R, prompt_R))
    repeated = (np.diff(prompt_R[order]) == 0) & (np.diff(index_R[order]) == 0)
    if repeated.any():
        row = order[1:][repeated][0]
        raise ValueError(f"prompt {prompt_ids[row]!r} has response_index {index_R[row]} more than once")
