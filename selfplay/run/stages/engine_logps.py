"""The log-probs that the engine computed while it sampled.

They are the model's own (temperature 1, before penalties and top-p), so that they are what stage *logprobs* wants wherever the
engine served the very weights that the round trains (see logprob_source.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.core.losses import LOSSES
from selfplay.run.stages.context import Policy, StageContext

# The columns of *sample* that `given_by_engine` reads.
_COLUMNS = ["response_id", "sampler_logp", "num_tokens", "policy_digest"]


def wants_engine_logps(context: StageContext, round_number: int) -> bool:
    """Whether the sampler of a round is asked for log-probs: where it serves the policy that the round trains."""
    if context.settings.selection.logprobs.source == "model":
        return False
    return context.trained_policy(round_number).digest == context.policy(round_number - 1).digest


def dtypes(context: StageContext) -> str:
    """What log-probs were made with. Shards of an attempt on other devices are made again: engine and model may have other dtypes
    there, and the engine's log-probs may no longer stand for the model's."""
    return f"engine {context.devices.engine_dtype}, trainer {context.devices.precision}"


def passes_over_kept(context: StageContext, round_number: int, source: str) -> bool:
    """Whether a training needs log-probs of kept pairs that stage *logprobs*, with this source, has not computed: the policy's in
    the trainer's precision, or those of a reference with other weights. A loss without a reference uses none of the table's: it
    only compares the trainer's own with some of them."""
    reference = context.reference_policy(round_number)
    if source != "engine" or reference is None or LOSSES[context.settings.training.loss].reference_free:
        return False
    return not in_trainer_precision(context) or reference.digest != context.trained_policy(round_number).digest


def in_trainer_precision(context: StageContext) -> bool:
    """Whether log-probs of the engine that are taken for the model's are as good as the trainer's own. In float32 the largest
    error of both is held to the same bound (core/engine_check.py); in bfloat16 single responses scatter."""
    return context.devices.engine_dtype == context.devices.precision == "float32"


def given_by_engine(rows: pa.Table, policy: Policy) -> pa.Table:
    """The finite log-probs, as LOGPS_SCHEMA, of those of these rows of *sample* that `policy` sampled."""
    own = pc.and_(pc.equal(rows["policy_digest"], policy.digest), pc.is_finite(rows["sampler_logp"]))
    return rows.filter(own).select(_COLUMNS[:3]).rename_columns(LOGPS_SCHEMA.names).cast(LOGPS_SCHEMA)


def engine_logps(context: StageContext, wanted: Sequence[tuple[int, pa.Array]], policy: Policy) -> pa.Table:
    """The same of the responses with these (round, response ids)."""
    found = [LOGPS_SCHEMA.empty_table()]
    for number, ids in wanted:
        rows = context.store.table(number, "sample", columns=_COLUMNS)
        found.append(given_by_engine(rows.filter(pc.is_in(rows["response_id"], value_set=ids)), policy))
    return pa.concat_tables(found)
