"""The log-probs that a training uses, in the trainer's precision, of every kept pair (first part of stage *train*).

Stage *logprobs* has them already where the model passed over the candidates, or where engine and trainer compute in float32. Of
other responses that were ranked by the log-probs of their engine the model computes them here, for the kept pairs alone, and so
does a reference with other weights.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.outcomes import LogprobsOutcome
from selfplay.core.stages import POLICY, REFERENCE
from selfplay.execution.sharding import Shards, cut_as_begun, quarantined
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.engine_logps import engine_logps, in_trainer_precision, passes_over_kept
from selfplay.run.stages.logprobs import forward
from selfplay.run.stages.rows import kept_responses, logprob_items
from selfplay.store.writer import StageWriter

_LOGPS = ["response_id", "policy_logp", "reference_logp"]


def training_logprobs(context: StageContext, round_number: int, writer: StageWriter) -> tuple[pa.Table, pa.Array]:
    """Columns response_id, policy_logp, reference_logp (null without a reference) of the responses of the pairs that a round
    trains on; and the ids of the responses that have none, because they killed their worker in this pass."""
    table = context.store.table(round_number, "logprobs", columns=_LOGPS)
    none = pa.array([], pa.string())
    if not passes_over_kept(context, round_number, context.store.outcome(round_number, LogprobsOutcome).source):
        return table, none
    policy, reference = context.trained_policy(round_number), context.reference_policy(round_number)
    kept = [(number, kept_responses(context, number)) for number in context.data_rounds(round_number)]
    ranked_by_engine = engine_logps(context, kept, policy)["response_id"].combine_chunks()
    _, items = logprob_items(context, [(number, _among(ids, ranked_by_engine)) for number, ids in kept])
    # of several responses to a prompt, as elsewhere: batches of like length need many to choose from
    size = 4 * context.settings.sampling.shard_size
    shards = Shards.of(cut_as_begun(writer, (POLICY, REFERENCE), items, size))
    given = table.filter(pc.is_in(table["response_id"], value_set=ranked_by_engine))
    found = given.select(["response_id", "policy_logp"])
    if not in_trainer_precision(context):
        forward(context, round_number, writer, policy, shards, POLICY, "logprobs of kept pairs")
        found = writer.read_shards(POLICY, ["response_id", "logp"]).rename_columns(found.column_names)
    columns = {
        "response_id": found["response_id"],
        "policy_logp": found["policy_logp"],
        "reference_logp": found["policy_logp"],
    }
    if reference is not None and reference.digest != policy.digest:
        if given["reference_logp"].null_count:
            forward(context, round_number, writer, reference, shards, REFERENCE, "reference logprobs of kept pairs")
            given = writer.read_shards(REFERENCE).rename_columns(["response_id", "reference_logp", "num_tokens"])
        row = pc.index_in(found["response_id"], value_set=given["response_id"].combine_chunks())
        columns["reference_logp"] = given["reference_logp"].take(row)
    context.workers.logprobs.broadcast("release")
    computed = pa.table(columns)
    computed = computed.filter(pc.is_valid(computed["reference_logp"]))
    others = table.filter(pc.invert(pc.is_in(table["response_id"], value_set=ranked_by_engine)))
    lost = pa.array([*quarantined(writer, POLICY, REFERENCE)], pa.string())
    return pa.concat_tables([others, computed.cast(others.schema)]), lost


def _among(ids: pa.Array, others: pa.Array) -> pa.Array:
    return ids.filter(pc.is_in(ids, value_set=others))
