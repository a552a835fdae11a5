"""The table that every `Scorer` returns (stage *score*): a reward or a reason for each response, in the order
asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa

from selfplay.core.protocols import ScoreItem

NOT_FINITE = "reward_not_finite"

Outcome = tuple[float | None, str | None]

SCORE_SCHEMA = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("drop_reason", pa.string()),
    ]
)


def finite(value: float) -> Outcome:
    """A number as an outcome: NaN and infinity are no rewards."""
    return (value, None) if math.isfinite(value) else (None, NOT_FINITE)


def score_table(items: Sequence[ScoreItem], outcomes: Sequence[Outcome]) -> pa.Table:
    """Columns response_id, reward, drop_reason as SCORE_SCHEMA: one outcome, (reward, None) or (None, reason),
    an item."""
    assert all((reward is None) != (reason is None) for reward, reason in outcomes), "a reward or a reason, never both"
    rows = zip((item.response_id for item in items), outcomes, strict=True)
    values = [(response_id, reward, reason) for response_id, (reward, reason) in rows]
    arrays = [pa.array([row[i] for row in values], field.type) for i, field in enumerate(SCORE_SCHEMA)]
    return pa.Table.from_arrays(arrays, schema=SCORE_SCHEMA)
