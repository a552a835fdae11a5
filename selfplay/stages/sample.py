"""Stage *sample*: n responses of the current policy to each prompt, shard by shard, through the engines."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.protocols import SampleRequest, SamplingSettings
from selfplay.records import Prompt, Response, schema
from selfplay.stages.context import Context, cut, derive_seed, run_shards
from selfplay.stages.prompts import admitted


def run(context: Context, round_number: int) -> None:
    """Write the responses table of a round, sampled from the policy after the round before."""
    started = time.monotonic()
    writer = context.writer(round_number, "sample", [(round_number, "prompts"), *policy_reads(round_number - 1)])
    prompts = admitted(context, round_number)
    changes = context.serve(round_number - 1)
    settings = sampling_settings(context)
    serving = time.monotonic()
    run_shards(
        context,
        writer,
        context.workers.sampler,
        "sample",
        cut(prompts, context.config.sampling.shard_size),
        lambda shard: (requests(context, shard, "sample", round_number), settings),
        lambda _, table: complete(table, round_number),
        title=f"round {round_number} sample",
        unit="prompts",
    )
    lengths = pa.concat_tables(
        [writer.read_shard(index).select(["num_tokens", "finish_reason"]) for index in sorted(writer.shards())]
    )
    num_tokens = int(pc.sum(lengths["num_tokens"]).as_py() or 0)
    truncated = int(pc.sum(pc.equal(lengths["finish_reason"], "length")).as_py() or 0)
    metrics = {
        "num_prompts": len(prompts),
        "num_responses": lengths.num_rows,
        "num_tokens": num_tokens,
        "num_truncated": truncated,
        "policy_digest": context.policy(round_number - 1).digest,
        "weight_changes": changes,
        "engines": context.workers.sampler.everyone("describe"),
        "sampling_seconds": round(time.monotonic() - serving, 3),
        "stop_token_ids": list(settings.stop_token_ids),
    }
    context.commit(writer, started, metrics)


def policy_reads(round_number: int) -> list[tuple[int, str]]:
    """The commit that holds the policy after a round; the starting policy is pinned with the run and needs none."""
    return [(round_number, "train")] if round_number > 0 else []


def sampling_settings(context: Context) -> SamplingSettings:
    """The configured sampling with the stop ids of tokenizer and generation config."""
    sampling = context.config.sampling
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


def requests(context: Context, prompts: Sequence[Prompt], *purpose: object) -> list[SampleRequest]:
    """A request for each prompt, its seed derived from the run's seed, the purpose and the prompt's id alone."""
    seed = context.config.seed
    return [
        SampleRequest(prompt.prompt_id, prompt.prompt_token_ids, derive_seed(seed, *purpose, prompt.prompt_id))
        for prompt in prompts
    ]


def complete(table: pa.Table | None, round_number: int) -> pa.Table:
    """A sampler's rows as rows of the responses table: ids and round added."""
    shape = schema(Response)
    if table is None:
        return shape.empty_table()
    ids = [
        response_id(prompt_id, round_number, index)
        for prompt_id, index in zip(table["prompt_id"].to_pylist(), table["response_index"].to_pylist(), strict=True)
    ]
    columns = {"response_id": pa.array(ids), "round": pa.array([round_number] * len(ids), pa.int64())}
    return pa.table(
        {name: columns.get(name, table[name] if name in table.column_names else None) for name in shape.names}
    ).cast(shape)


def response_id(prompt_id: str, round_number: int, index: int) -> str:
    """Ids tell where a response comes from and sort by prompt, round and index."""
    return f"{prompt_id}-r{round_number:03d}-{index}"
