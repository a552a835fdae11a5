"""Stage *logprobs*: teacher-forced log-probs of the responses that are in a pair, under the policy about to be trained and under
the reference; one pass where the two are the same weights. What else the round's metric reads of the policy is made here too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import BackendError
from selfplay.core.outcomes import LogprobsOutcome
from selfplay.core.protocols import LogprobItem
from selfplay.core.records import Logprobs, schema
from selfplay.core.stages import LOGPS_SCHEMA, REFERENCE
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import cut_as_begun, quarantined, run_shards
from selfplay.run.stages import metric_features as metric_inputs
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.rows import candidate_responses, logprob_items
from selfplay.store.writer import StageWriter


def run(context: StageContext, round_number: int) -> None:
    """Write the log-probs table of a round: its candidates and, with accumulated data, the pairs kept in earlier rounds."""
    started = time.monotonic()
    policy, reference = context.trained_policy(round_number), context.reference_policy(round_number)
    writer = context.writer(round_number, "logprobs")
    paired = [(number, _paired(context, number, round_number)) for number in context.data_rounds(round_number)]
    _, items = logprob_items(context, paired)
    shards = cut_as_begun(writer, ("", REFERENCE), items, context.settings.sampling.shard_size)
    if reference is not None and reference.digest != policy.digest:
        _forward(context, round_number, writer, reference, shards, REFERENCE)
    other = reference is not None and reference.digest != policy.digest
    run_shards(
        context, writer, context.workers.logprobs, "logprobs", shards,
        lambda shard: (policy.folder, policy.digest, list(shard)),
        lambda index, table: _complete(
            table, writer.read_shard(index, REFERENCE) if other else (table if reference is not None else None), policy
        ),
        title=f"round {round_number} logprobs", unit="responses", quarantine=no_logprob(context),
    )  # fmt: skip
    made = metric_inputs.make(context, round_number, writer, policy)
    context.workers.logprobs.broadcast("release")
    outcome = LogprobsOutcome(
        num_responses=len(items),
        quarantined=quarantined(writer, "", REFERENCE, *metric_inputs.TABLES.values()),
        policy_digest=policy.digest,
        reference_digest=reference.digest if reference else None,
        reference_is_policy=reference is not None and not other,
        made_for_metric=made,
    )
    context.commit(writer, started, outcome)


def no_logprob(context: StageContext) -> QuarantinePolicy[LogprobItem]:
    """A response that kills its worker has no row: no log-prob can be made up. *select* drops its pairs."""
    return QuarantinePolicy(
        lambda item: item.response_id,
        lambda _, reason: LOGPS_SCHEMA.empty_table(),
        context.settings.max_poison_items,
    )


def _paired(context: StageContext, number: int, round_number: int) -> pa.Array:
    """The ids of the responses in a round's candidates or, of an earlier round than `round_number`, in its kept pairs."""
    sides = ["chosen_response_id", "rejected_response_id"]
    if number == round_number:
        pairs = candidate_responses(context, number)
    else:
        pairs = context.store.table(number, "select", columns=[*sides, "kept"])
        pairs = pairs.filter(pairs["kept"])
    return pa.chunked_array([chunk for side in sides for chunk in pairs[side].chunks], pa.string()).unique()


def _forward(
    context: StageContext,
    round_number: int,
    writer: StageWriter,
    model: Policy,
    shards: Sequence[Sequence[LogprobItem]],
    table: str,
) -> None:
    run_shards(
        context, writer, context.workers.logprobs, "logprobs", shards,
        lambda shard: (model.folder, model.digest, list(shard)),
        lambda _, result: checked(result, model.folder) if result is not None else LOGPS_SCHEMA.empty_table(),
        title=f"round {round_number} reference logprobs", unit="responses", table=table, quarantine=no_logprob(context),
    )  # fmt: skip


def checked(table: pa.Table, folder: str) -> pa.Table:
    """The log-probs of a shard. Raises BackendError for one that is no finite number: nothing can stand in its place."""
    bad = np.flatnonzero(~np.isfinite(table["logp"].cast(pa.float64()).to_numpy()))
    if len(bad):
        row = int(bad[0])
        raise BackendError(
            f"the log-prob of response {table['response_id'][row].as_py()} under {folder} is {table['logp'][row].as_py()} "
            f"({len(bad)} of {table.num_rows} in the shard are no finite numbers)",
            "The weights hold values that are not finite, or the dtype is too narrow for them: try policy.dtype: float32.",
        )
    return table


def _complete(policy: pa.Table | None, reference: pa.Table | None, model: Policy) -> pa.Table:
    shape = schema(Logprobs)
    if policy is None:
        return shape.empty_table()
    checked(policy, model.folder)
    if reference is not None:
        # either may lack a response that killed its worker; one without the other is of no use
        both = [pc.is_in(one["response_id"], value_set=other["response_id"].combine_chunks())
                for one, other in ((policy, reference), (reference, policy))]  # fmt: skip
        policy, reference = policy.filter(both[0]), reference.filter(both[1])
        assert reference["response_id"].equals(policy["response_id"]), "reference rows are not the policy's"
    return pa.table(
        {
            "response_id": policy["response_id"],
            "policy_logp": policy["logp"],
            "reference_logp": reference["logp"] if reference is not None else pa.nulls(policy.num_rows, pa.float64()),
            "num_tokens": policy["num_tokens"],
        }
    ).cast(shape)
