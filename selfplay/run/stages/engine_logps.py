"""The log-probs that the engine computed while it sampled, and whether they may stand for those of a forward pass.

They are the model's own (temperature 1, before penalties and top-p), so that they are what stage *logprobs* wants wherever the
engine served the very weights that the round trains. A check on a few responses compares them with the model's in every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.core.engine_check import EngineCheck, bound
from selfplay.core.errors import BackendError
from selfplay.core.losses import LOSSES
from selfplay.core.protocols import LogprobItem
from selfplay.core.stages import CHECKED
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import quarantined, run_shards
from selfplay.run.stages.context import Policy, StageContext
from selfplay.store.writer import StageWriter

NUM_CHECKED = 64


@dataclass(frozen=True, slots=True)
class Source:
    """Where a round's policy_logp comes from ("engine" or "model") and why; `given`: the engine's rows, as LOGPS_SCHEMA."""

    name: str
    reason: str
    given: pa.Table
    check: EngineCheck | None = None


def wants_engine_logps(context: StageContext, round_number: int) -> bool:
    """Whether the sampler of a round is asked for log-probs: where it serves the policy that the round trains."""
    if context.settings.selection.logprobs.source == "model":
        return False
    return context.trained_policy(round_number).digest == context.policy(round_number - 1).digest


def dtypes(context: StageContext) -> str:
    """What log-probs were made with. Shards of an attempt on other devices are made again: engine and model may have other dtypes
    there, and the engine's log-probs may no longer stand for the model's."""
    return f"engine {context.devices.engine_dtype}, trainer {context.devices.precision}"


def trains_on_model_logps(context: StageContext, source: str) -> bool:
    """Whether a training needs log-probs of kept pairs that stage *logprobs*, with this source, has only from the engine. A loss
    without a reference uses none of the table's: it only compares the trainer's own with some of them."""
    return source == "engine" and not LOSSES[context.settings.training.loss].reference_free


def engine_logps(context: StageContext, wanted: Sequence[tuple[int, pa.Array]], policy: Policy) -> pa.Table:
    """The finite log-probs, as LOGPS_SCHEMA, of those of these (round, response ids) that `policy` sampled."""
    columns = ["response_id", "sampler_logp", "num_tokens", "policy_digest"]
    found = [LOGPS_SCHEMA.empty_table()]
    for number, ids in wanted:
        rows = context.store.table(number, "sample", columns=columns)
        own = pc.and_(pc.equal(rows["policy_digest"], policy.digest), pc.is_finite(rows["sampler_logp"]))
        rows = rows.filter(pc.and_(own, pc.is_in(rows["response_id"], value_set=ids)))
        found.append(rows.select(columns[:3]).rename_columns(LOGPS_SCHEMA.names).cast(LOGPS_SCHEMA))
    return pa.concat_tables(found)


def choose_source(
    context: StageContext,
    round_number: int,
    writer: StageWriter,
    policy: Policy,
    items: Sequence[LogprobItem],
    given_row: pa.Array,
    given: pa.Table,
    quarantine: QuarantinePolicy[LogprobItem],
) -> Source:
    """The source of a round's policy_logp. `given_row` is the row of each item in `given`, null where the engine has none.

    Raises BackendError where `selection.logprobs.source: engine` asks for log-probs that are not there or differ from the
    model's."""
    asked, none = context.settings.selection.logprobs.source, LOGPS_SCHEMA.empty_table()
    if asked == "model":
        return Source("model", "selection.logprobs.source is model", none)
    check: EngineCheck | None = None
    if not given.num_rows:
        reason = "the engine computed no log-probs of these responses with the weights that are trained"
    elif context.devices.engine_dtype == "bfloat16" and context.devices.precision == "float32":
        reason = "the engine computes in bfloat16 and the trainer in float32"
    else:
        has_given = np.flatnonzero(given_row.is_valid())
        places = has_given[np.unique(np.linspace(0, len(has_given) - 1, NUM_CHECKED).astype(np.int64))]
        run_shards(
            context, writer, context.workers.logprobs, "logprobs", [[items[place] for place in places.tolist()]],
            lambda shard: (policy.folder, policy.digest, list(shard)), lambda _, table: table,
            title=f"round {round_number} logprobs check", unit="responses", table=CHECKED, quarantine=quarantine,
        )  # fmt: skip
        check = _compare(writer.read_shard(0, CHECKED), given, context.devices.precision)
        reason = (
            f"on {check.num_responses} responses the log-probs of the engine ({context.devices.engine_dtype}) and of the model "
            f"({context.devices.precision}) {check.sentence(' a token')}"
        )
        if check.passed:
            lost = pa.array([*quarantined(writer, CHECKED)], pa.string())
            return Source(
                "engine", reason, given.filter(pc.invert(pc.is_in(given["response_id"], value_set=lost))), check
            )
    if asked == "engine" and len(items):
        raise BackendError(
            f"selection.logprobs.source is engine, but {reason}",
            "Set selection.logprobs.source to auto or model: a fork from the round before can.",
        )
    if check is not None:
        context.reporter.say(f"round {round_number} logprobs: {reason}; the model passes over all candidates instead")
    return Source("model", reason, none, check)


def _compare(exact: pa.Table, given: pa.Table, precision: str) -> EngineCheck:
    """The engine's log-probs against the model's (`exact`, which has no row of a response that killed its worker)."""
    row = pc.index_in(exact["response_id"], value_set=given["response_id"].combine_chunks()).to_numpy()
    differences = np.abs(exact["logp"].to_numpy() - given["logp"].to_numpy()[row])
    errors = differences / np.maximum(exact["num_tokens"].to_numpy(), 1)
    return EngineCheck.of(errors.tolist(), *bound(precision))
