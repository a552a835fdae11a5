"""Stage *score*: a reward for every response, or the reason why it has none. A failed reward is never a number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.magnitudes import finite, in_units
from selfplay.core.outcomes import CombinedReward, PromptsOutcome, RewardEngine, ScoreOutcome
from selfplay.core.protocols import ScoreItem
from selfplay.core.records import Reward, schema, with_parts
from selfplay.core.stages import GOLD
from selfplay.execution.sharding import LazyItems, Shard
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.rows import SortedIds, count_values, prompt_rows
from selfplay.run.stages.scoring import (
    Shards,
    batched_sources,
    gold_drop_reasons,
    judge_shards,
    reward_shards,
    score_items,
    score_shards,
    scored_columns,
)
from selfplay.store.lazy_table import RowReader
from selfplay.store.writer import StageWriter


def run(context: StageContext, round_number: int) -> None:
    """Write the rewards table of a round; with a gold judge, its reward of the same responses beside it (unless the judge
    needs columns that only the held-out prompts have)."""
    started = time.monotonic()
    writer = context.writer(round_number, "score")
    shards, total = _shards(context, writer, round_number)
    gold = context.workers.gold if context.inputs.gold_on_training else None
    if gold is not None:
        judge_shards(context, writer, gold, shards, title=f"round {round_number} gold", total=total)
    combined, engines = reward_shards(
        context, writer, shards,
        lambda index, scores: _complete(context, scores, writer.read_shard(index, GOLD) if gold else None),
        title=f"round {round_number} score", total=total,
    )  # fmt: skip
    scored = writer.read_shards(columns=["reward", "gold_reward", "drop_reason"])
    outcome = score_outcome(
        scored,
        combined=combined,
        gold_drop_reasons=gold_drop_reasons(writer) if gold is not None else {},
        gold_lacks=list(context.inputs.gold_lacks),
        batched=batched_sources(context),
        engines=engines,
    )
    context.commit(writer, started, outcome)


def _shards(context: StageContext, writer: StageWriter, round_number: int) -> tuple[Shards, int]:
    """The responses of each shard of *sample*, and how many are expected in all."""
    if context.from_dataset:
        shards = _of_dataset(context, writer, round_number)
        return lambda: shards, 0
    columns = ["prompt_id", *scored_columns(context)]
    feed, prompt_id = (
        context.feed(round_number, "sample"),
        context.store.table(round_number, "prompts", columns=["prompt_id"]),
    )
    row_of = SortedIds(prompt_id["prompt_id"])

    def items_of(table: pa.Table) -> LazyItems[ScoreItem]:
        prompt_row = row_of.rows(table["prompt_id"])
        return score_items(
            context, round_number, prompt_row, lambda start, stop: table.slice(start, stop - start), table["prompt_id"]
        )

    def available() -> Iterator[Shard[ScoreItem] | None]:
        for index in feed.available():
            yield None if index is None else Shard(index, items_of(feed.read(index, columns)), feed.digest(index))

    asked = context.store.outcome(round_number, PromptsOutcome).num_admitted
    return available, asked * context.settings.sampling.num_responses


def _of_dataset(context: StageContext, writer: StageWriter, round_number: int) -> list[Sequence[ScoreItem]]:
    """Shards of the responses of a dataset, which was imported in much larger ones. Of one with one row a response, each response
    has columns of its own."""
    sample = context.store.lazy_table(round_number, "sample")
    own = [name for name in ("columns_json",) if name in sample.schema().names]
    responses = RowReader(sample, [*scored_columns(context), *own])
    prompt_id = context.store.table(round_number, "sample", columns=["prompt_id"])["prompt_id"]
    items = score_items(
        context, round_number, prompt_rows(context, round_number, prompt_id),
        lambda start, stop: responses.take(range(start, stop)), prompt_id,
    )  # fmt: skip
    sampling = context.settings.sampling
    return score_shards(context, writer, items, sampling.shard_size * sampling.num_responses, prompt_id)


def score_outcome(
    scored: pa.Table,
    *,
    combined: CombinedReward | None,
    gold_drop_reasons: dict[str, int],
    gold_lacks: list[str],
    batched: Sequence[str] = (),
    engines: Mapping[str, RewardEngine] = MappingProxyType({}),
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
        reward_engines=dict(engines) or None,
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
