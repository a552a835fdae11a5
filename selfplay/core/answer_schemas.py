"""Arrow schemas of the results of workers, which are the hidden tables of stages."""

from __future__ import annotations

import pyarrow as pa

SCORES_SCHEMA = pa.schema([("response_id", pa.string()), ("reward", pa.float64()), ("drop_reason", pa.string())])
ENGINES_SCHEMA = pa.schema(
    [("response_id", pa.string()), ("reward", pa.float64()), ("engine_reward", pa.float64()), ("problem", pa.string())]
)
GOLD_SCHEMA = pa.schema(
    [("response_id", pa.string()), ("gold_reward", pa.float64()), ("gold_drop_reason", pa.string())]
)
LOGPS_SCHEMA = pa.schema([("response_id", pa.string()), ("logp", pa.float64()), ("num_tokens", pa.int64())])
ASKED_SCHEMA = pa.schema([("response_id", pa.string()), ("probability", pa.float64()), ("trimmed", pa.bool_())])
