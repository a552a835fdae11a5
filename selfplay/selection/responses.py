"""The responses of a round as arrays, and what makes a response unusable by itself (stage *pair*, first half).

Offline data with several responses a prompt comes through here too: what it does not say (why a response ended, how long
it is) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfplay.selection.arrays import Bools, Floats, Ints, Strings, factorize, take_strings
from selfplay.selection.reasons import (
    EMPTY,
    REWARD_NOT_FINITE,
    TRUNCATED,
    DropReasons,
    no_reasons,
    with_reason,
)


@dataclass(frozen=True, slots=True)
class ResponsePool:
    """R responses as pair builders read them, in any row order. Built by `response_pool`.

    `prompt_R` are codes into `prompt_ids`, so equal numbers mean the same prompt *id* (two prompts may have the same text).
    Equal numbers in `text_R` mean the same response text; the text and not the token ids decide identity, because the text is
    what the reward model judged. `empty_R`: the text is empty or white space. `texts` has the text of each row; it is read
    only for a limit on similarity. `response_index_R` is unique within a prompt. `rewards_R` is in the reward's own unit, NaN
    where it is missing. `drop_reason_R` is what scoring said. Lengths are in the policy's tokens; None where they are not known.
    """

    prompt_R: Ints
    response_index_R: Ints
    rewards_R: Floats
    text_R: Ints
    empty_R: Bools
    truncated_R: Bools
    drop_reason_R: DropReasons
    prompt_ids: Strings
    texts: Sequence[str]
    num_tokens_R: Ints | None = None

    def __post_init__(self) -> None:
        order = np.lexsort((self.response_index_R, self.prompt_R))
        repeated = (np.diff(self.prompt_R[order]) == 0) & (np.diff(self.response_index_R[order]) == 0)
        if repeated.any():
            row = order[1:][repeated][0]
            prompt_id = take_strings(self.prompt_ids, self.prompt_R[[row]])[0]
            raise ValueError(
                f"prompt {str(prompt_id)!r} has response_index {self.response_index_R[row]} more than once"
            )

    def __len__(self) -> int:
        return len(self.prompt_R)


def response_pool(
    *,
    prompt_ids: Sequence[str],
    response_index: Sequence[int] | Ints,
    rewards: Sequence[float | None] | Floats,
    texts: Sequence[str],
    text_codes: Ints | None = None,
    finish_reasons: Sequence[str] | None = None,
    drop_reasons: Sequence[str | None] | None = None,
    num_tokens: Sequence[int] | Ints | None = None,
) -> ResponsePool:
    """Columns of R responses, row by row, as a pool. A missing reward is None or NaN.

    Without `finish_reasons` every response counts as finished. `text_codes`: a number for each text, equal for equal texts
    (made of the texts where it is not given, which keeps all of them in memory). Raises ValueError for columns of different
    lengths and for a response index that is twice in a prompt.
    """
    columns = {
        "prompt_ids": prompt_ids, "response_index": response_index, "rewards": rewards, "texts": texts,
        "finish_reasons": finish_reasons, "drop_reasons": drop_reasons, "num_tokens": num_tokens,
    }  # fmt: skip
    sizes = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"columns of responses differ in length: {sizes}")
    rewards_R = np.asarray(rewards, dtype=np.float64)
    num_responses = len(rewards_R)
    prompt_R, distinct_prompts = factorize(prompt_ids)
    if finish_reasons is None:
        truncated_R = np.zeros(num_responses, dtype=np.bool_)
    else:
        truncated_R = np.fromiter((reason != "stop" for reason in finish_reasons), np.bool_, num_responses)
    return ResponsePool(
        prompt_R=prompt_R,
        response_index_R=np.asarray(response_index, dtype=np.int64),
        rewards_R=rewards_R,
        text_R=factorize(texts)[0] if text_codes is None else text_codes,
        empty_R=empty_texts(texts),
        truncated_R=truncated_R,
        drop_reason_R=no_reasons(num_responses) if drop_reasons is None else DropReasons.of(drop_reasons),
        prompt_ids=distinct_prompts,
        texts=texts,
        num_tokens_R=None if num_tokens is None else np.asarray(num_tokens, dtype=np.int64),
    )


def faults(pool: ResponsePool, *, allow_truncated: bool = False) -> DropReasons:
    """Why a response can be in no pair, whatever the others are; None where it is usable.

    Where several reasons apply, the first of these is given: scoring's own, empty, truncated (unless allowed), reward not
    finite.
    """
    reason_R = with_reason(pool.drop_reason_R, pool.empty_R, EMPTY)
    if not allow_truncated:
        reason_R = with_reason(reason_R, pool.truncated_R, TRUNCATED)
    return with_reason(reason_R, ~np.isfinite(pool.rewards_R), REWARD_NOT_FINITE)


def empty_texts(texts: Sequence[str]) -> Bools:
    """True where a text is empty or white space only."""
    # `isspace` stops at the first letter, where `strip` would copy the text.
    return np.fromiter((not text or text.isspace() for text in texts), np.bool_, len(texts))
