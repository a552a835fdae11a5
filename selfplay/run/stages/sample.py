"""Stage *sample*: n responses of the current policy to each prompt, shard by shard, through the engines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.outcomes import SampleOutcome
from selfplay.core.protocols import SampleRequest, SamplingSettings
from selfplay.core.records import Response, schema
from selfplay.core.stages import MIXED
from selfplay.execution.quarantine import QUARANTINED, QuarantinePolicy
from selfplay.execution.sharding import Shards, cut_as_begun, quarantined, run_shards
from selfplay.run.stages.context import StageContext, derive_seed
from selfplay.run.stages.engine_logps import wants_engine_logps
from selfplay.run.stages.prompts import sample_requests
from selfplay.run.stages.sampling import expected_tokens, request_size_of
from selfplay.store.writer import StageWriter


def run(context: StageContext, round_number: int) -> None:
    """Write the responses table of a round, sampled from the policy after the round before."""
    started = time.monotonic()
    writer = context.writer(round_number, "sample")
    mixed = context.settings.sampling.mix is not None
    if mixed:
        _sample_mixed(context, writer, round_number)
    policy = context.policy(round_number - 1)
    changes = context.serve(round_number - 1)
    settings = replace(sampling_settings(context), logprobs=wants_engine_logps(context, round_number))
    serving, adopted = time.monotonic(), writer.shards()
    requests = sample_requests(context, round_number, "sample", round_number)
    size, window = request_size_of(context.workers.sampler.broadcast("describe"), settings.num_responses)
    run_shards(
        context, writer, context.workers.sampler, "sample", shards(context, writer, requests),
        lambda shard: (share(context, shard, mixed=False), settings),
        lambda index, table: _with_mixed(complete(table, round_number, policy.digest, policy.round), writer, index, mixed),
        title=f"round {round_number} sample", unit="prompts", quarantine=no_responses(context), size=size, window=window,
        duration=expected_tokens(_before(context, round_number)), on_kept=context.start_others,
    )  # fmt: skip
    sampled = time.monotonic()
    columns = ["prompt_id", "text", "num_tokens", "finish_reason", "policy_round"]
    counts = {index: _counts(writer.read_shard(index, columns=columns)) for index in sorted(writer.shards())}
    total = sum(counts.values(), Counter())
    given_up = quarantined(writer, "", MIXED)
    missing = len(requests) * settings.num_responses - total["num_responses"]
    outcome = SampleOutcome(
        num_prompts=len(requests),
        num_responses=total["num_responses"],
        num_tokens=total["num_tokens"],
        num_truncated=total["num_truncated"],
        num_duplicates=total["num_duplicates"],
        drop_reasons={QUARANTINED: missing} if given_up else {},
        quarantined=given_up,
        policy_digest=policy.digest,
        weight_changes=changes,
        engines=context.workers.sampler.broadcast("describe"),
        # of this attempt alone, as the seconds are
        num_tokens_sampled=sum(found["num_own_tokens"] for index, found in counts.items() if index not in adopted),
        sampling_seconds=round(sampled - serving, 3),
        num_mixed=sum(writer.read_shard(index, MIXED, ["response_id"]).num_rows for index in writer.shards(MIXED)),
        stop_token_ids=list(settings.stop_token_ids),
    )
    context.commit(writer, started, outcome)


def _before(context: StageContext, round_number: int) -> pa.Table | None:
    """The responses of the round before, where it had the same prompts."""
    prompts = context.settings.prompts
    if round_number == 1 or prompts is None or prompts.order != "same":
        return None
    return context.store.table(round_number - 1, "sample", columns=["prompt_id", "num_tokens"])


def shards(context: StageContext, writer: StageWriter, requests: Sequence[SampleRequest]) -> Shards[SampleRequest]:
    """The shards of a round's requests, the same for both models."""
    return Shards.of(cut_as_begun(writer, ("", MIXED), requests, context.settings.sampling.shard_size))


def _counts(shard: pa.Table) -> Counter[str]:
    """What is counted of a shard, which holds whole prompts. A duplicate has the text of an earlier response to its prompt."""
    tokens = shard["num_tokens"]
    own = pc.sum(tokens.filter(pc.is_valid(shard["policy_round"]))).as_py()
    different = shard.select(["prompt_id", "text"]).group_by(["prompt_id", "text"]).aggregate([]).num_rows
    return Counter(
        num_responses=shard.num_rows,
        num_tokens=pc.sum(tokens).as_py() or 0,
        num_own_tokens=own or 0,
        num_truncated=pc.sum(pc.equal(shard["finish_reason"], "length")).as_py() or 0,
        num_duplicates=shard.num_rows - different,
    )


def _sample_mixed(context: StageContext, writer: StageWriter, round_number: int) -> None:
    """The second model's responses, in hidden shards cut as the policy's are: before the engines serve the policy."""
    theirs = shards(context, writer, sample_requests(context, round_number, "mix", round_number))
    if writer.shards(MIXED) == {*theirs.indices()}:
        return
    model = context.inputs.mix
    assert model is not None, "the second model of sampling.mix is resolved with the inputs"
    context.workers.sampler.broadcast("load_policy", str(model.folder), model.digest, ())
    settings = sampling_settings(context)
    size, window = request_size_of(context.workers.sampler.broadcast("describe"), settings.num_responses)
    run_shards(
        context, writer, context.workers.sampler, "sample", theirs,
        lambda shard: (share(context, shard, mixed=True), settings),
        lambda _, table: complete(table, round_number, model.digest, None),
        title=f"round {round_number} sample, second model", unit="prompts", table=MIXED, quarantine=no_responses(context),
        size=size, window=window,
    )  # fmt: skip


def no_responses(context: StageContext) -> QuarantinePolicy[SampleRequest]:
    """A prompt that kills its engine has no responses; it is named among the quarantined."""
    columns = ("prompt_id", "response_index", "seed", "token_ids", "num_tokens", "text", "finish_reason")
    none = pa.schema([schema(Response).field(name) for name in columns]).empty_table()
    return QuarantinePolicy(
        lambda request: request.prompt_id, lambda _, reason: none, context.settings.max_poison_items
    )


def share(context: StageContext, asked: Sequence[SampleRequest], *, mixed: bool) -> list[SampleRequest]:
    """The part of each request that falls to the second model (`mixed`) or to the policy. Which prompts are shared out
    follows from the run's seed and the prompt's id alone, the same in every round."""
    sampling = context.settings.sampling
    if sampling.mix is None:
        return list(asked)
    parts = []
    for request in asked:
        drawn = derive_seed(context.settings.seed, "mixed", request.prompt_id) / 2**31
        theirs = sampling.mix.num_responses if drawn < sampling.mix.share else 0
        ours = sampling.num_responses - theirs
        count, first = (theirs, ours) if mixed else (ours, 0)
        if count:
            parts.append(replace(request, num_responses=count, first_index=first))
    return parts


def _with_mixed(table: pa.Table, writer: StageWriter, index: int, mixed: bool) -> pa.Table:
    """A shard of the policy's responses with the second model's in their places, by prompt and response index."""
    if not mixed:
        return table
    whole = pa.concat_tables([table, writer.read_shard(index, MIXED)])
    return whole.sort_by([("prompt_id", "ascending"), ("response_index", "ascending")])


def sampling_settings(context: StageContext) -> SamplingSettings:
    """The configured sampling with the stop ids of tokenizer and generation config."""
    sampling = context.settings.sampling
    return SamplingSettings(
        num_responses=sampling.num_responses,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        stop_token_ids=context.inputs.stop_token_ids,
    )


def complete(table: pa.Table | None, round_number: int, policy_digest: str, policy_round: int | None) -> pa.Table:
    """A sampler's rows as rows of the responses table: ids, round and the policy that sampled them added."""
    shape = schema(Response)
    if table is None:
        return shape.empty_table()
    num, index = table.num_rows, table["response_index"].cast(pa.string())
    # ids tell where a response comes from and sort by prompt and round
    columns = {
        "response_id": pc.binary_join_element_wise(table["prompt_id"], f"r{round_number:03d}", index, "-"),
        "round": pa.repeat(pa.scalar(round_number, pa.int64()), num),
        "policy_digest": pa.repeat(policy_digest, num),
        "policy_round": pa.repeat(pa.scalar(policy_round, pa.int64()), num),
        "sampler_logp": table["sampler_logp"] if "sampler_logp" in table.column_names else pa.nulls(num, pa.float64()),
    }
    return pa.table({name: columns[name] if name in columns else table[name] for name in shape.names}).cast(shape)
