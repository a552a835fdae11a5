"""The same filters for pairs that somebody else built (`select DATASET`): one reason a pair, nothing is rearranged."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Bools, Floats, Ints
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.filters import ORDER, Candidates, levels
from selfplay.selection.pairing.similarity import similarity
from selfplay.selection.reasons import (
    EMPTY,
    IDENTICAL_AFTER_TRUNCATION,
    REWARD_NOT_FINITE,
    TOO_LONG_FOR_TRAINING,
    Reasons,
    give_reason,
    no_reasons,
)
from selfplay.selection.responses import empty_texts

TokenIds = Sequence[Sequence[int]]


def pair_filters(
    rules: PairRules,
    num_pairs: int,
    *,
    reward_chosen_P: Floats | None = None,
    reward_rejected_P: Floats | None = None,
    chosen: Sequence[str] | None = None,
    rejected: Sequence[str] | None = None,
    num_tokens_chosen_P: Ints | None = None,
    num_tokens_rejected_P: Ints | None = None,
    num_prompt_tokens_P: Ints | None = None,
    max_length: int | None = None,
    cut_too_long: bool = False,
    chosen_token_ids: TokenIds | None = None,
    rejected_token_ids: TokenIds | None = None,
) -> Reasons:
    """Why each of P pairs is to be left out; None where nothing speaks against it. What is not given is not looked at.

    In this order: empty text, a reward that is not finite, then `filters.ORDER` (identical texts, equal rewards, `min_gap`,
    reward bounds, length gap, near-identical texts), then the training length. Rewards the wrong way round are no fault in
    themselves: such a pair has a negative explicit margin, and `min_gap` takes it out.

    With `max_length` (prompt and longer response together, in tokens) a pair that is too long is left out, as in a run.
    With `cut_too_long` it stays, for a trainer that cuts, unless its responses are identical after the cut: the token ids
    of both sides up to `max_length` - prompt, which are needed then. A prompt that fills `max_length` by itself leaves
    nothing of either response and so counts as identical.

    Raises ConfigError for a rule that means nothing for ready-made pairs, ValueError for one whose columns are missing.
    """
    refuse_building_rules(rules)
    reason_P = no_reasons(num_pairs)
    identical_P: Bools | None = None
    if chosen is not None and rejected is not None:
        reason_P = give_reason(reason_P, empty_texts(chosen) | empty_texts(rejected), EMPTY)
        identical_P = np.fromiter(map(operator.eq, chosen, rejected), np.bool_, num_pairs)
    for reward_P in (reward_chosen_P, reward_rejected_P):
        if reward_P is not None:
            reason_P = give_reason(reason_P, ~np.isfinite(reward_P), REWARD_NOT_FINITE)

    # asking about similarity is slow, so that pairs with a fault are not compared
    faulty_P = reason_P.code_P != 0

    def similar(left: Ints) -> Floats:
        assert chosen is not None and rejected is not None  # otherwise it is not handed on
        return np.array([0.0 if faulty_P[row] else similarity(chosen[row], rejected[row]) for row in left.tolist()])

    found = Candidates(
        identical_P=identical_P,
        reward_chosen_P=reward_chosen_P,
        reward_rejected_P=reward_rejected_P,
        num_tokens_chosen_P=num_tokens_chosen_P,
        num_tokens_rejected_P=num_tokens_rejected_P,
        similarity=similar if identical_P is not None else None,
    )
    level_P = levels(found, rules, num_pairs)
    for level, name in enumerate(ORDER):
        where_P = level_P == level
        if where_P.any():
            reason_P = give_reason(reason_P, where_P, name)
    if max_length is None:
        return reason_P
    if num_prompt_tokens_P is None or num_tokens_chosen_P is None or num_tokens_rejected_P is None:
        raise ValueError("max_length needs the numbers of tokens of prompt, chosen and rejected")
    longest_P = num_prompt_tokens_P + np.maximum(num_tokens_chosen_P, num_tokens_rejected_P)
    long_P = longest_P > max_length
    if not cut_too_long:
        return give_reason(reason_P, long_P, TOO_LONG_FOR_TRAINING)
    if chosen_token_ids is None or rejected_token_ids is None:
        raise ValueError("cut_too_long needs the token ids of chosen and rejected")
    same_P = np.zeros(num_pairs, dtype=np.bool_)
    for row in np.flatnonzero(long_P).tolist():
        room = max(0, max_length - int(num_prompt_tokens_P[row]))
        same_P[row] = list(chosen_token_ids[row][:room]) == list(rejected_token_ids[row][:room])
    return give_reason(reason_P, same_P, IDENTICAL_AFTER_TRUNCATION)


def refuse_building_rules(rules: PairRules) -> None:
    """ConfigError where a rule is set that only says how pairs are built from responses."""
    neutral = PairRules()
    for name in ("build", "max_per_prompt", "length_penalty", "allow_truncated"):
        if getattr(rules, name) != getattr(neutral, name):
            raise ConfigError(
                f"{name} is {getattr(rules, name)!r}, but these pairs are ready made: it says how pairs are built",
                f"Leave {name} out, or give a dataset with several responses a prompt.",
            )
