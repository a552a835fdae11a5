"""Stage *score*: a reward for every response, or the reason why it has none. A failed reward is never a number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.magnitudes import finite, in_units
from selfplay.core.outcomes import CombinedReward, ScoreOutcome
from selfplay.core.records import Reward, schema, with_parts
from selfplay.core.stages import GOLD
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.rows import count_values
from selfplay.run.stages.scoring import (
    batched_sources,
    gold_drop_reasons,
    judge_shards,
    reward_shards,
    score_items,
    score_shards,
    scored_columns,
)
from selfplay.store.lazy_table import RowReader


def run(context: StageContext, round_number: int) -> None:
    """Write the rewards table of a round; with a gold judge, its reward of the same responses beside it (unless the judge
    needs columns that only the held-out prompts have)."""
    started = time.monotonic()
    writer = context.writer(round_number, "score")
    sample = context.store.lazy_table(round_number, "sample")
    # of a dataset with one row a response, each response has columns of its own
    own = [name for name in ("columns_json",) if context.from_dataset and name in sample.schema().names]
    responses = RowReader(sample, [*scored_columns(context), *own])
    prompt_id = context.store.table(round_number, "sample", columns=["prompt_id"])["prompt_id"]
    items = score_items(
        context, round_number, prompt_id, lambda start, stop: responses.take(range(start, stop)), prompt_id
    )
    sampling = context.settings.sampling
    shards = score_shards(context, items, sampling.shard_size * sampling.num_responses, prompt_id)
    gold = context.workers.gold if context.inputs.gold_on_training else None
    if gold is not None:
        judge_shards(context, writer, gold, shards, title=f"round {round_number} gold")
    combined = reward_shards(
        context, writer, shards,
        lambda index, scores: _complete(context, scores, writer.read_shard(index, GOLD) if gold else None),
        title=f"round {round_number} score",
    )  # fmt: skip
    scored = writer.read_shards(columns=["reward", "gold_reward", "drop_reason"])
    outcome = score_outcome(
        scored,
        combined=combined,
        gold_drop_reasons=gold_drop_reasons(writer) if gold is not None else {},
        gold_lacks=list(context.inputs.gold_lacks),
        batched=batched_sources(context),
    )
    context.commit(writer, started, outcome)


def score_outcome(
    scored: pa.Table,
    *,
    combined: CombinedReward | None,
    gold_drop_reasons: dict[str, int],
    gold_lacks: list[str],
    batched: Sequence[str] = (),
) -> ScoreOutcome:
    """Counts and means of a rewards table."""
    return ScoreOutcome(
        num_responses=scored.num_rows,
        num_scored=int(pc.count(scored["reward"]).as_py()),
        reward_mean=_statistic(pc.mean, scored["reward"]),
        reward_std=_statistic(pc.stddev, scored["reward"]),
        num_gold=int(pc.count(scored["gold_reward"]).as_py()),
        gold_reward_mean=_statistic(pc.mean, scored["gold_reward"]),
        drop_reasons=count_values(scored["drop_reason"]),
        combined=combined,
        gold_drop_reasons=gold_drop_reasons,
        gold_lacks=gold_lacks,
        called_by_prompt=list(batched) or None,
    )


def _statistic(function: Callable[[pa.ChunkedArray], pa.Scalar], column: pa.ChunkedArray) -> float | None:
    """Mean or standard deviation of a column of finite numbers of any magnitude; None where there is none."""
    _, unit = in_units(column.drop_null().cast(pa.float64()).to_numpy())
    value = function(pc.divide(column.cast(pa.float64()), unit)).as_py()
    return None if value is None else finite(unit * value)


def _complete(context: StageContext, scores: pa.Table | None, gold: pa.Table | None) -> pa.Table:
    shape = with_parts(schema(Reward), context.settings.reward.parts)
    if scores is None:
        return shape.empty_table()
    if gold is not None:
        assert gold["response_id"].equals(scores["response_id"]), "the judge's rows are not the reward's"
    judge = gold["gold_reward"] if gold is not None else pa.nulls(scores.num_rows, pa.float64())
    columns = {"gold_reward": judge}
    return pa.table({name: columns[name] if name in columns else scores[name] for name in shape.names}).cast(shape)
