"""The rules that take a candidate pair out, in the order in which they are asked: each pair gets the first that applies.

They are the same for pairs that were just built and for pairs that came ready made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Floats, Ints
from selfplay.selection.margins import explicit_margin
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.reasons import (
    GAP_TOO_SMALL,
    IDENTICAL_RESPONSES,
    LENGTH_GAP_TOO_LARGE,
    MARGIN_NOT_FINITE,
    NEAR_IDENTICAL_RESPONSES,
    OVER_MAX_PER_PROMPT,
    REWARD_CHOSEN_TOO_LOW,
    REWARD_REJECTED_TOO_HIGH,
    ZERO_MARGIN,
)

Levels = NDArray[np.int8]

ORDER = (
    IDENTICAL_RESPONSES,
    ZERO_MARGIN,
    MARGIN_NOT_FINITE,
    GAP_TOO_SMALL,
    REWARD_CHOSEN_TOO_LOW,
    REWARD_REJECTED_TOO_HIGH,
    LENGTH_GAP_TOO_LARGE,
    NEAR_IDENTICAL_RESPONSES,
    OVER_MAX_PER_PROMPT,
)
PASSED = len(ORDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What the filters look at of P pairs. `similarity` gives the similarity of the pairs at some positions in P; it is
    expensive, so it is computed last, and only of pairs that no other filter dropped. None = not known."""

    identical_P: Bools | None
    reward_chosen_P: Floats | None
    reward_rejected_P: Floats | None
    num_tokens_chosen_P: Ints | None
    num_tokens_rejected_P: Ints | None
    similarity: Callable[[Ints], Floats] | None


def levels(pairs: Candidates, rules: PairRules, num_pairs: int, *, keep_zero_margins: bool = False) -> Levels:
    """For each pair the position in `ORDER` of the rule that takes it out, or PASSED. The cap per prompt is not asked here.
    `keep_zero_margins`: equal rewards are no fault.

    Raises ValueError for a rule whose columns are not known.
    """
    level_P = np.full(num_pairs, PASSED, dtype=np.int8)

    def take_out(reason: str, where_P: Bools) -> None:
        level_P[where_P & (level_P == PASSED)] = ORDER.index(reason)

    if pairs.identical_P is not None:
        take_out(IDENTICAL_RESPONSES, pairs.identical_P)
    # in float64, however narrow the columns are kept: differences of narrow unsigned integers wrap around
    chosen_P, rejected_P = _wide(pairs.reward_chosen_P), _wide(pairs.reward_rejected_P)
    if chosen_P is not None and rejected_P is not None:
        if not keep_zero_margins:
            take_out(ZERO_MARGIN, chosen_P == rejected_P)
        margin_P = explicit_margin(chosen_P, rejected_P)
        take_out(MARGIN_NOT_FINITE, np.isinf(margin_P))
        if rules.min_gap > 0:
            take_out(GAP_TOO_SMALL, margin_P <= rules.min_gap)
        if rules.min_reward_chosen is not None:
            take_out(REWARD_CHOSEN_TOO_LOW, chosen_P < rules.min_reward_chosen)
        if rules.max_reward_rejected is not None:
            take_out(REWARD_REJECTED_TOO_HIGH, rejected_P > rules.max_reward_rejected)
    elif rules.min_gap > 0 or rules.min_reward_chosen is not None or rules.max_reward_rejected is not None:
        raise ValueError("min_gap, min_reward_chosen and max_reward_rejected need the rewards of the pairs")
    if rules.max_length_gap is not None:
        tokens_chosen_P, tokens_rejected_P = _wide(pairs.num_tokens_chosen_P), _wide(pairs.num_tokens_rejected_P)
        if tokens_chosen_P is None or tokens_rejected_P is None:
            raise ValueError("max_length_gap needs the numbers of tokens of the pairs")
        gap_P = np.abs(tokens_chosen_P - tokens_rejected_P)
        take_out(LENGTH_GAP_TOO_LARGE, gap_P > rules.max_length_gap)
    if rules.max_similarity < 1:
        if pairs.similarity is None:
            raise ValueError("max_similarity needs the texts of the pairs")
        left = np.flatnonzero(level_P == PASSED)
        alike = left[pairs.similarity(left) > rules.max_similarity]
        level_P[alike] = ORDER.index(NEAR_IDENTICAL_RESPONSES)
    return level_P


def _wide(column: Floats | Ints | None) -> Floats | None:
    return None if column is None else column.astype(np.float64, copy=False)
