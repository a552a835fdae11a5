"""The table that every `Scorer` returns (stage *score*): a reward or a reason for each response, in the order
asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa

from selfplay.core.answer_schemas import SCORES_SCHEMA
from selfplay.core.protocols import ScoreItem

NOT_FINITE = "reward_not_finite"

Outcome = tuple[float | None, str | None]


def finite(value: float) -> Outcome:
    """A number as an outcome: NaN and infinity are no rewards."""
    return (value, None) if math.isfinite(value) else (None, NOT_FINITE)


def score_table(items: Sequence[ScoreItem], outcomes: Sequence[Outcome]) -> pa.Table:
    """Columns response_id, reward, drop_reason as SCORES_SCHEMA: one outcome, (reward, None) or (None, reason),
    an item."""
    assert all((reward is None) != (reason is None) for reward, reason in outcomes), "a reward or a reason, never both"
    rows = [(item.response_id, *outcome) for item, outcome in zip(items, outcomes, strict=True)]
    return pa.Table.from_pylist([dict(zip(SCORES_SCHEMA.names, row, strict=True)) for row in rows], SCORES_SCHEMA)
