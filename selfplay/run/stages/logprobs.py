"""Stage *logprobs*: log-probs of the responses that are in a pair, under the policy about to be trained and under the reference.

The shards are those of the responses, so that they follow while later ones are still sampled (paired_shards.py). Where the engine
that sampled served that policy, its own log-probs are taken (logprob_source.py); otherwise a teacher-forced pass computes them,
one for both where policy and reference are the same weights. What a training needs of responses with
log-probs of the engine is computed for the kept pairs alone, in stage *train* (kept_logprobs.py). What else the round's metric
reads of the policy is made here too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import LogprobsOutcome
from selfplay.core.protocols import LogprobItem
from selfplay.core.records import Logprobs, schema
from selfplay.core.stages import CHECKED, REFERENCE
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import Shard, Shards, quarantined, run_shards
from selfplay.run.stages import metric_features as metric_inputs
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.engine_logps import dtypes, passes_over_kept
from selfplay.run.stages.logprob_source import Source, choose_source
from selfplay.run.stages.paired_shards import PairedResponses, PairedShards, paired_shards
from selfplay.selection.metrics import columns_needed
from selfplay.selection.metrics.inputs import REFERENCE_LOGPS
from selfplay.store.writer import StageWriter


def run(context: StageContext, round_number: int) -> None:
    """Write the log-probs table of a round: its candidates and, with accumulated data, the pairs kept in earlier rounds."""
    started = time.monotonic()
    policy, reference = context.trained_policy(round_number), context.reference_policy(round_number)
    writer = context.writer(round_number, "logprobs", made_with=dtypes(context))
    paired = paired_shards(context, writer, round_number, policy)
    source = choose_source(context, round_number, writer, policy, paired, no_logprob(context))
    other = reference is not None and reference.digest != policy.digest
    everywhere = source.name == "model" or _ranks_by_reference(context, round_number)
    if reference is not None and other:
        asked = _asked(paired, source, _lost(writer), of_given=everywhere)
        forward(context, round_number, writer, reference, asked, REFERENCE, "reference logprobs")
    lost = _lost(writer)
    # what the engine gave of the shards that are under way, by index
    given, counts = dict[int, pa.Table](), Counter[str]()

    def keep_given(index: int, responses: PairedResponses) -> None:
        rows = _given(responses, source, lost)
        counts.update(responses=len(responses.ids), given=rows.num_rows)
        if not writer.is_kept(index, responses.reads):
            given[index] = rows

    def complete(index: int, table: pa.Table | None) -> pa.Table:
        if reference is None or not other:
            return _complete(table, given.pop(index), policy, is_reference=reference is not None)
        return _complete(table, given.pop(index), policy, writer.read_shard(index, REFERENCE), of_given=everywhere)

    run_shards(
        context, writer, context.workers.logprobs, "logprobs", _asked(paired, source, lost, on_read=keep_given),
        lambda shard: (policy.folder, policy.digest, list(shard)), complete,
        title=f"round {round_number} logprobs", unit="responses", quarantine=no_logprob(context),
    )  # fmt: skip
    if not context.from_dataset:
        context.require_end(context.feed(round_number, "pair"))
    made = metric_inputs.make(context, round_number, writer, policy)
    if not passes_over_kept(context, round_number, source.name):  # otherwise the kept pairs come next
        context.workers.logprobs.broadcast("release")
    outcome = LogprobsOutcome(
        num_responses=counts["responses"],
        quarantined=quarantined(writer, "", REFERENCE, CHECKED, *metric_inputs.TABLES.values()),
        policy_digest=policy.digest,
        reference_digest=reference.digest if reference else None,
        reference_is_policy=reference is not None and not other,
        made_for_metric=made,
        source=source.name,
        source_reason=source.reason,
        num_from_engine=counts["given"],
        check=source.check,
    )
    context.commit(writer, started, outcome)


def _lost(writer: StageWriter) -> pa.Array:
    """The responses that have killed their worker in this stage. They are not asked for again: one log-prob without the other is
    of no use."""
    return pa.array([*quarantined(writer, CHECKED, REFERENCE)], pa.string())


def _given(responses: PairedResponses, source: Source, lost: pa.Array) -> pa.Table:
    """The log-probs of a shard that are the engine's."""
    if source.name == "model":
        return LOGPS_SCHEMA.empty_table()
    return responses.given.filter(pc.invert(pc.is_in(responses.given["response_id"], value_set=lost)))


def _asked(
    paired: PairedShards,
    source: Source,
    lost: pa.Array,
    *,
    of_given: bool = False,
    on_read: Callable[[int, PairedResponses], None] = lambda index, responses: None,
) -> Shards[LogprobItem]:
    """The shards of a forward pass: what the engine gave no log-probs of or, with `of_given`, all; without those that are lost.
    `on_read` is called with each shard that is read."""

    def shard(index: int) -> Shard[LogprobItem]:
        responses = paired.shard(index)
        on_read(index, responses)
        given = [] if of_given else _given(responses, source, lost)["response_id"].chunks
        return Shard(index, responses.items_without(pa.concat_arrays([lost, *given])), responses.reads)

    return Shards(paired.indices, shard, paired.num_items)


def no_logprob(context: StageContext) -> QuarantinePolicy[LogprobItem]:
    """A response that kills its worker has no row: no log-prob can be made up. *select* drops its pairs."""
    return QuarantinePolicy(
        lambda item: item.response_id,
        lambda _, reason: LOGPS_SCHEMA.empty_table(),
        context.settings.max_poison_items,
    )


def forward(
    context: StageContext,
    round_number: int,
    writer: StageWriter,
    model: Policy,
    shards: Shards[LogprobItem],
    table: str,
    what: str,
) -> None:
    """Pass a model over shards of responses and keep their log-probs in a hidden table of the stage."""
    run_shards(
        context, writer, context.workers.logprobs, "logprobs", shards,
        lambda shard: (model.folder, model.digest, list(shard)),
        lambda _, result: checked(result, model.folder) if result is not None else LOGPS_SCHEMA.empty_table(),
        title=f"round {round_number} {what}", unit="responses", table=table, quarantine=no_logprob(context),
    )  # fmt: skip


def checked(table: pa.Table, folder: str) -> pa.Table:
    """The log-probs of a shard. Raises BackendError for one that is not finite."""
    bad = np.flatnonzero(~np.isfinite(table["logp"].cast(pa.float64()).to_numpy()))
    if len(bad):
        row = int(bad[0])
        raise BackendError(
            f"the log-prob of response {table['response_id'][row].as_py()} under {folder} is {table['logp'][row].as_py()} "
            f"({len(bad)} of {table.num_rows} in the shard are no finite numbers)",
            "The weights hold values that are not finite, or the dtype is too narrow for them: try policy.dtype: float32.",
        )
    return table


def _ranks_by_reference(context: StageContext, round_number: int) -> bool:
    """Whether the round's ranking reads log-probs of the reference. A dataset's reference is always asked for its log-probs."""
    if context.from_dataset or context.settings.selection.implicit_margin == "dpo":
        return True
    ranking = context.inputs.ranking
    needed = columns_needed(ranking.of_round(round_number), ranking.implicit_margin)
    return not {*needed}.isdisjoint(REFERENCE_LOGPS)


def _complete(
    computed: pa.Table | None,
    given: pa.Table,
    model: Policy,
    reference: pa.Table | None = None,
    *,
    is_reference: bool = False,
    of_given: bool = True,
) -> pa.Table:
    """A shard of the table from the model's rows and the engine's. `is_reference`: the policy is the reference too. `reference`
    has the log-probs of another one, of the engine's rows only with `of_given`; a row that should be there was quarantined."""
    shape = schema(Logprobs)
    if computed is not None:
        given = pa.concat_tables([checked(computed, model.folder).cast(LOGPS_SCHEMA), given.cast(LOGPS_SCHEMA)])
    rows = given.sort_by("response_id")
    reference_logp = rows["logp"] if is_reference else pa.nulls(rows.num_rows, pa.float64())
    if reference is not None:
        found = pc.index_in(rows["response_id"], value_set=reference["response_id"].combine_chunks())
        wanted = pa.repeat(True, rows.num_rows)
        if not of_given:
            ids = [] if computed is None else computed["response_id"].combine_chunks()
            wanted = pc.is_in(rows["response_id"], value_set=pa.array(ids, pa.string()))
        # the one model's log-prob without the other's is of no use
        has = pc.or_(pc.is_valid(found), pc.invert(wanted))
        rows, reference_logp = rows.filter(has), reference["logp"].take(found.filter(has))
    return pa.table(
        {
            "response_id": rows["response_id"],
            "policy_logp": rows["logp"],
            "reference_logp": reference_logp,
            "num_tokens": rows["num_tokens"],
        }
    ).cast(shape)
