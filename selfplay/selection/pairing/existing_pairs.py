"""The same filters for pairs that were built elsewhere (`select DATASET`): one reason a pair, nothing is rearranged."""

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
    REWARD_NOT_FINITE,
    DropReasons,
    no_reasons,
    with_reason,
)
from selfplay.selection.responses import empty_texts


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
    keep_zero_margins: bool = False,
) -> DropReasons:
    """Why each of P pairs is to be left out; None where no filter applies. A filter whose column is not given is not applied.

    In this order: empty text, a reward that is not finite, then `filters.ORDER` (identical texts, equal rewards unless
    `keep_zero_margins`, `min_gap`, reward bounds, length gap, near-identical texts). Rewards the wrong way round are no fault
    in themselves: such a pair has a negative explicit margin, and `min_gap` takes it out.

    Raises ConfigError for a rule that means nothing for ready-made pairs, ValueError for one whose columns are missing.
    """
    refuse_building_rules(rules)
    reason_P = no_reasons(num_pairs)
    identical_P: Bools | None = None
    if chosen is not None and rejected is not None:
        reason_P = with_reason(reason_P, empty_texts(chosen) | empty_texts(rejected), EMPTY)
        identical_P = np.fromiter(map(operator.eq, chosen, rejected), np.bool_, num_pairs)
    for reward_P in (reward_chosen_P, reward_rejected_P):
        if reward_P is not None:
            reason_P = with_reason(reason_P, ~np.isfinite(reward_P), REWARD_NOT_FINITE)

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
    level_P = levels(found, rules, num_pairs, keep_zero_margins=keep_zero_margins)
    for level, name in enumerate(ORDER):
        reason_P = with_reason(reason_P, level_P == level, name)
    return reason_P


def refuse_building_rules(rules: PairRules) -> None:
    """ConfigError where a rule is set that only says how pairs are built from responses."""
    neutral = PairRules()
    for name in ("build", "max_per_prompt", "length_penalty", "allow_truncated"):
        if getattr(rules, name) != getattr(neutral, name):
            raise ConfigError(
                f"{name} is {getattr(rules, name)!r}, but the pairs exist already: it says how pairs are built",
                f"Leave {name} out, or give a dataset with several responses a prompt.",
            )
