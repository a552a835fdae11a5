"""Stage *evaluate*: the policy after a round on held-out prompts, with the same prompts and seeds every round.

The engine takes over the new weights here first, which is also the proof that they load; without an `evaluation` section that
is all that happens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.outcomes import CombinedReward, EvaluateOutcome, RewardEngine
from selfplay.core.protocols import SamplingSettings
from selfplay.core.records import EvaluationResponse, schema, with_parts
from selfplay.core.stages import GOLD
from selfplay.execution.sharding import Shards, cut_as_begun, quarantined, run_shards
from selfplay.run.stages.context import Policy, StageContext, derive_seed
from selfplay.run.stages.evaluation_metrics import summarize
from selfplay.run.stages.prompts import sample_requests
from selfplay.run.stages.rows import prompt_rows
from selfplay.run.stages.sample import no_responses, sampling_settings
from selfplay.run.stages.sampling import expected_tokens, request_size_of
from selfplay.run.stages.scoring import (
    gold_drop_reasons,
    score_items,
    score_shards,
    scored_columns,
    scored_shards,
)
from selfplay.selection.margins import Spread
from selfplay.store.writer import StageWriter

MODES = ("sampled", "greedy")


def run(context: StageContext, round_number: int) -> None:
    """Write the evaluation table and metrics of the policy after a round."""
    started = time.monotonic()
    writer = context.writer(round_number, "evaluate")
    policy = context.policy(round_number)
    changes = context.serve(round_number)
    tables = [f".{mode}" for mode in MODES]
    requests = sample_requests(context, 0, "evaluation")
    shards = Shards.of(cut_as_begun(writer, tables, requests, context.settings.sampling.shard_size))
    engines = context.workers.sampler.broadcast("describe")
    columns = ["prompt_id", "num_tokens"]
    before = context.store.table(round_number - 1, "evaluate", columns=columns) if round_number else None
    for mode in _modes(context):
        settings = _settings(context, mode)
        size, window = request_size_of(engines, settings.num_responses)
        run_shards(
            context, writer, context.workers.sampler, "sample", shards,
            lambda shard, settings=settings: (list(shard), settings),  # type: ignore[misc]
            lambda _, table, mode=mode: _sampled(table, round_number, mode, policy),  # type: ignore[misc]
            title=f"round {round_number} evaluate, {mode}", unit="prompts", table=f".{mode}", quarantine=no_responses(context),
            size=size, window=window, duration=expected_tokens(before), on_kept=context.start_others,
        )  # fmt: skip
    sampled = [writer.read_shards(f".{mode}") for mode in _modes(context)]
    responses = pa.concat_tables([schema(EvaluationResponse).empty_table(), *sampled])
    combined, reward_engines = _score(context, writer, round_number, responses)
    table = writer.read_shards()
    evaluation = None
    if table.num_rows:
        seed = derive_seed(context.settings.seed, "bootstrap")
        initial = context.store.table(0, "evaluate") if round_number > 0 else None
        previous = context.store.table(round_number - 1, "evaluate") if round_number > 0 else None
        gold = context.workers.gold is not None
        evaluation = summarize(table, initial, previous, seed, gold=gold, gold_drop_reasons=gold_drop_reasons(writer))
    outcome = EvaluateOutcome(
        weight_changes=changes,
        policy_digest=policy.digest,
        eval_quarantined=quarantined(writer, *(f".{mode}" for mode in _modes(context))),
        reward_engines=reward_engines or None,
        combined=combined,
        evaluation=evaluation,
    )
    context.commit(writer, started, outcome)


def _modes(context: StageContext) -> Sequence[str]:
    evaluation = context.settings.evaluation
    if evaluation is None:
        return ()
    return MODES if evaluation.greedy else MODES[:1]


def _settings(context: StageContext, mode: str) -> SamplingSettings:
    evaluation = context.settings.evaluation
    assert evaluation is not None
    settings = sampling_settings(context)
    settings = replace(settings, max_tokens=evaluation.max_tokens or settings.max_tokens)
    if mode == "greedy":
        return replace(settings, num_responses=1, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    return replace(settings, num_responses=evaluation.num_responses)


def _sampled(table: pa.Table | None, round_number: int, mode: str, policy: Policy) -> pa.Table:
    shape = schema(EvaluationResponse)
    if table is None:
        return shape.empty_table()
    count, index = table.num_rows, table["response_index"].cast(pa.string())
    ids = pc.binary_join_element_wise(table["prompt_id"], f"-e{round_number:03d}-{mode[0]}", index, "")
    columns = {
        "response_id": ids,
        "round": pa.repeat(pa.scalar(round_number, pa.int64()), count),
        "mode": pa.repeat(mode, count),
        "policy_digest": pa.repeat(policy.digest, count),
        "policy_round": pa.repeat(pa.scalar(policy.round, pa.int64()), count),
        "reward": pa.nulls(count, pa.float64()),
        "gold_reward": pa.nulls(count, pa.float64()),
        "drop_reason": pa.nulls(count, pa.string()),
    }
    return pa.table({name: columns[name] if name in columns else table[name] for name in shape.names}).cast(shape)


def _score(
    context: StageContext, writer: StageWriter, round_number: int, responses: pa.Table
) -> tuple[CombinedReward | None, dict[str, RewardEngine]]:
    shape = with_parts(schema(EvaluationResponse), context.settings.reward.parts)
    size = 4 * context.settings.sampling.shard_size

    def rows(start: int, stop: int) -> pa.Table:
        return responses.slice(start, stop - start).select(scored_columns(context))

    def rewarded(index: int, scores: pa.Table | None) -> pa.Table:
        if scores is None:
            return shape.empty_table()
        table = responses.slice(starts[index], len(shards[index]))
        gold = writer.read_shard(index, GOLD)["gold_reward"] if context.workers.gold else table["gold_reward"]
        columns = {name: scores[name] for name in scores.column_names if name in shape.names} | {"gold_reward": gold}
        return pa.table({name: columns[name] if name in columns else table[name] for name in shape.names}).cast(shape)

    # a greedy response is not one of the sampled ones that a batched function compares
    unit = pc.binary_join_element_wise(responses["mode"], responses["prompt_id"], " ")
    items = score_items(context, 0, prompt_rows(context, 0, responses["prompt_id"]), rows, unit)
    shards = score_shards(context, writer, items, size, unit)
    starts = np.cumsum([0, *(len(shard) for shard in shards)])
    return scored_shards(
        context, writer, Shards.of(shards), rewarded, title=f"round {round_number} evaluate, reward",
        gold=context.workers.gold, gold_title=f"round {round_number} evaluate, gold",
        statistics=_first_statistics(context, round_number),
        measured_R=pc.equal(responses["mode"], "sampled").to_numpy(),
    )  # fmt: skip


def _first_statistics(context: StageContext, round_number: int) -> dict[str, Spread] | None:
    """What normalises the parts of a combined reward in every evaluation: their means and standard deviations over the sampled
    responses of the starting policy. Those of each round's own would put every round's mean at 0. None: not there yet."""
    if round_number == 0 or not context.settings.reward.parts:
        return None
    recorded = context.store.outcome(0, EvaluateOutcome).combined
    assert recorded is not None, "round 0 combined the same parts"
    return {name: Spread(part.mean, part.std) for name, part in recorded.reward_parts.items()}
