"""Where a round's log-probs under the policy come from: the engine that sampled, or a forward pass of the model.

In every round a check on a few responses compares the two. It takes the first shards by index, so that the choice does not depend
on which shards are there first, and the other shards follow while responses are still sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.engine_check import EngineCheck, bound
from selfplay.core.errors import BackendError
from selfplay.core.protocols import LogprobItem
from selfplay.core.stages import CHECKED, REFERENCE
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import Shard, Shards, run_shards
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.engine_logps import wants_engine_logps
from selfplay.run.stages.paired_shards import PairedResponses, PairedShards
from selfplay.store.writer import StageWriter

NUM_CHECKED = 64
# So many paired responses are looked at for them: of a round without log-probs of the engine not all are read.
NUM_LOOKED_AT = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """Where a round's policy_logp comes from ("engine" or "model") and why."""

    name: str
    reason: str
    check: EngineCheck | None = None


def choose_source(
    context: StageContext,
    round_number: int,
    writer: StageWriter,
    policy: Policy,
    paired: PairedShards,
    quarantine: QuarantinePolicy[LogprobItem],
) -> Source:
    """The source of a round's policy_logp. Shards of an earlier attempt whose check was made from other files are removed: they
    may have come from the other source.

    Raises BackendError where engine and model do not compute the same function, and where `selection.logprobs.source: engine`
    asks for log-probs that are not there or differ from the model's."""
    asked = context.settings.selection.logprobs.source
    if asked == "model":
        return Source("model", "selection.logprobs.source is model")
    first, check = _first(paired), None
    context.stop.check()
    given = pa.concat_tables([responses.given for responses in first]) if first else None
    if given is None or not given.num_rows:
        reason = "the engine computed no log-probs of these responses with the weights that are trained"
    elif context.devices.engine_dtype == "bfloat16" and context.devices.precision == "float32":
        reason = "the engine computes in bfloat16 and the trainer in float32"
    else:
        reads = {name: digest for responses in first for name, digest in responses.reads.items()}
        _begin_anew_unless(writer, reads)
        shard = Shard(0, _checked_items(first), reads)
        run_shards(
            context, writer, context.workers.logprobs, "logprobs", Shards(lambda: [0], lambda _: shard, len(shard.items)),
            lambda items: (policy.folder, policy.digest, list(items)), lambda _, table: table,
            title=f"round {round_number} logprobs check", unit="responses", table=CHECKED, quarantine=quarantine,
        )  # fmt: skip
        check = _compare(writer.read_shard(0, CHECKED), given, context.devices.precision)
        reason = (
            f"on {check.num_responses} responses the log-probs of the engine ({context.devices.engine_dtype}) and of the model "
            f"({context.devices.precision}) {check.sentence(' a token')}"
        )
        if check.passed:
            return Source("engine", reason, check)
        if check.is_another_function:
            # the canary would find it too, after a training
            raise BackendError(
                f"round {round_number}: vLLM and transformers compute the policy in {policy.folder} differently: {reason}, "
                f"and by {check.error_mean:.3g} on average",
                "Nothing was trained. The responses were sampled from another model than the one that would be trained. "
                "Compare the settings of config.json that only one of them follows (attention, windows, rotary embeddings), "
                "and remove keys of sampling.engine that change the computation.",
            )
    if check is None:
        _begin_anew_unless(writer, None)
    is_asked = not wants_engine_logps(context, round_number) or any(len(responses.ids) for responses in first)
    if asked == "engine" and is_asked:
        raise BackendError(
            f"selection.logprobs.source is engine, but {reason}",
            "Set selection.logprobs.source to auto or model, in a fork from the previous round.",
        )
    if check is not None:
        context.reporter.say(f"round {round_number} logprobs: {reason}; the model passes over all candidates instead")
    return Source("model", reason, check)


def _first(paired: PairedShards) -> list[PairedResponses]:
    """The first shards, until they have NUM_CHECKED responses of which the engine gave log-probs, or NUM_LOOKED_AT in all."""
    found, num_given, num_seen = list[PairedResponses](), 0, 0
    for index in paired.in_order():
        found.append(paired.shard(index))
        num_given += found[-1].given.num_rows
        num_seen += len(found[-1].ids)
        if num_given >= NUM_CHECKED or num_seen >= NUM_LOOKED_AT:
            break
    return found


def _checked_items(first: list[PairedResponses]) -> list[LogprobItem]:
    """NUM_CHECKED of the responses of which the engine gave log-probs, from all over these shards."""
    places = [
        (responses, place)
        for responses in first
        for place in np.flatnonzero(pc.is_in(responses.ids, value_set=responses.given["response_id"])).tolist()
    ]
    chosen = np.unique(np.linspace(0, len(places) - 1, NUM_CHECKED).astype(np.int64)).tolist()
    return [responses.items[place] for responses, place in (places[each] for each in chosen)]


def _begin_anew_unless(writer: StageWriter, reads: Mapping[str, str] | None) -> None:
    """Remove the shards of an earlier attempt unless its check was made from the files `reads` (None: it made none)."""
    before = writer.reads(0, CHECKED) if 0 in writer.shards(CHECKED) else None
    if before != reads:
        for table in ("", REFERENCE, *([CHECKED] if reads is None else [])):
            writer.drop_shards((), table)


def _compare(exact: pa.Table, given: pa.Table, precision: str) -> EngineCheck:
    """The engine's log-probs against the model's (`exact`, which has no row of a response that killed its worker)."""
    row = pc.index_in(exact["response_id"], value_set=given["response_id"].combine_chunks()).to_numpy()
    differences = np.abs(exact["logp"].to_numpy() - given["logp"].to_numpy()[row])
    errors = differences / np.maximum(exact["num_tokens"].to_numpy(), 1)
    return EngineCheck.of(errors.tolist(), *bound(precision))
