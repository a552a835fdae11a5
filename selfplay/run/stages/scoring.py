"""What stages *score* and *evaluate* share: rewards of responses shard by shard, from one scorer or from several whose rewards
are combined, and the gold judge's beside them.

Parts of a combined reward are z-scored over a whole pool, so each part's shards are kept by themselves first, hidden in the
stage's folder (`.parts/NAME`), and the stage's own shards are made of them once all are there: a kill between two parts loses
neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import GOLD_SCHEMA, SCORES_SCHEMA
from selfplay.core.outcomes import CombinedReward, RewardEngine, RewardPart
from selfplay.core.pool import Pool
from selfplay.core.protocols import ScoreItem
from selfplay.core.records import part_column
from selfplay.core.stages import GOLD, PARTS
from selfplay.execution.sharding import LazyItems, Shards, cut_as_begun
from selfplay.inputs.models.thinking import WHOLE, Answer, Thinking
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.rows import count_values
from selfplay.run.stages.scorers import JUDGE, Finish, Scorer, batched_sources, run_scorers
from selfplay.selection.arrays import Bools, Floats, Ints, run_starts
from selfplay.selection.margins import Spread
from selfplay.selection.reasons import REWARD_NOT_FINITE
from selfplay.selection.rewards import combine, part_statistics
from selfplay.store.lazy_table import RowReader
from selfplay.store.shard_feed import ShardFeed
from selfplay.store.writer import StageWriter

# A standard deviation below this part of the mean may be rounding: float32 numbers are 2**-24 of their size apart, or more.
_ROUNDING = 2.0**-22


def scored_columns(context: StageContext) -> list[str]:
    """The columns of responses that a scorer's items are made from, their prompt's aside."""
    return ["response_id", "text", "finish_reason", *(["token_ids"] if _thoughts_in_tokens(context) else [])]


def _thoughts_in_tokens(context: StageContext) -> bool:
    """Whether a reward model sees final answers that only token ids tell apart from thoughts."""
    return _sees_final(context) and not context.from_dataset and context.inputs.renderer.thinking.reads_tokens


def _sees_final(context: StageContext) -> bool:
    return any(
        source.model is not None and source.sees == "final" for source in context.settings.reward.sources().values()
    )


def score_items(
    context: StageContext,
    prompts_round: int,
    prompt_row: Ints,
    responses: Callable[[int, int], pa.Table],
    unit: pa.ChunkedArray,
) -> LazyItems[ScoreItem]:
    """The input of a scorer for responses: the conversation, the text, the prompt's other columns (or the response's own, which
    only responses of a dataset have), the final answer where a reward model sees that. `prompt_row` are the rows of all
    responses' prompts in the prompts table of that round; `responses` returns `scored_columns` from a first row up to a last one;
    `unit` is that of each item."""
    final, in_tokens = _sees_final(context), _thoughts_in_tokens(context)
    names = ["messages", "columns_json", *(["prompt_token_ids"] if in_tokens else [])]
    prompts = RowReader(context.store.lazy_table(prompts_round, "prompts"), names)

    # responses of a dataset are text, and of whatever model
    thinking = Thinking() if context.from_dataset else context.inputs.renderer.thinking

    def answer(row: dict[str, Any], prompt: dict[str, Any]) -> Answer:
        if not in_tokens:
            return thinking.in_text(row["text"]) if final else WHOLE
        sampled: list[int] = row["token_ids"]
        stopped = row["finish_reason"] == "stop"
        return thinking.answer(prompt["prompt_token_ids"], sampled[: len(sampled) - stopped], row["text"])

    def make(start: int, stop: int) -> list[ScoreItem]:
        asked = prompts.take(prompt_row[start:stop]).to_pylist()
        rows = responses(start, stop).to_pylist()
        answers = [answer(row, prompt) for row, prompt in zip(rows, asked, strict=True)]
        return [
            ScoreItem(
                response_id=row["response_id"],
                messages=prompt["messages"],
                response=row["text"],
                finish_reason=row["finish_reason"],
                columns=json.loads(row.get("columns_json") or prompt["columns_json"]),
                final_answer=found.text,
                no_answer=found.missing,
                unit=of_unit,
            )
            for row, prompt, found, of_unit in zip(rows, asked, answers, unit[start:stop].to_pylist(), strict=True)
        ]

    return LazyItems(len(prompt_row), make)


def score_shards(
    context: StageContext, writer: StageWriter, items: LazyItems[ScoreItem], size: int, unit: pa.ChunkedArray
) -> list[Sequence[ScoreItem]]:
    """Shards of `size` responses. Where a batched function is called with the responses of a unit, none is cut."""
    tables = ["", GOLD, *(f"{PARTS}/{name}" for name in sorted(context.settings.reward.parts))]
    if not batched_sources(context):
        return cut_as_begun(writer, tables, items, size)
    codes = unit.combine_chunks().dictionary_encode().indices.to_numpy()
    return cut_as_begun(writer, tables, items, size, run_starts(codes).tolist())


def gold_drop_reasons(writer: StageWriter) -> dict[str, int]:
    """Why responses of a stage have no gold reward, counted over the judge's shards."""
    if not writer.shards(GOLD):
        return {}
    return count_values(writer.read_shards(GOLD, ["gold_drop_reason"])["gold_drop_reason"])


def scored_shards(
    context: StageContext,
    writer: StageWriter,
    shards: Shards[ScoreItem],
    finish: Finish,
    *,
    title: str,
    gold: Pool | None = None,
    gold_title: str = "",
    statistics: Mapping[str, Spread] | None = None,
    measured_R: Bools | None = None,
) -> tuple[CombinedReward | None, dict[str, RewardEngine]]:
    """Have every shard scored and keep its rows as `finish` makes them; with a `gold` judge, its scores are kept under `.gold`
    before.

    Where rewards are combined, their parts are normalised by `statistics` (part by name), else by those over the responses of
    `measured_R` (None: all), and what was used is returned, to be recorded; None for a single reward. Beside it is what computed
    the rewards of each model, by its section. Raises BackendError when a scorer failed too often.
    """
    workers, parts = context.workers, sorted(context.settings.reward.parts)
    # the shards that the judge has scored: a single reward follows them, because a row holds both
    judged = ShardFeed(writer.round, writer.stage)
    scorers: list[Scorer] = []
    if gold is not None:
        scorers.append(Scorer(gold_title, gold, JUDGE, shards, GOLD, _gold_rows, on_kept=judged.add, on_end=judged.end))
    for name in parts:
        section, table = f"reward.parts.{name}", f"{PARTS}/{name}"
        scorers.append(Scorer(f"{title}, {name}", workers.parts[name], section, shards, table, _part_rows))
    if not parts:
        assert workers.scorer is not None, "a reward without parts has one scorer"
        follows = shards if gold is None else replace(shards, indices=judged.available)
        scorers.append(Scorer(title, workers.scorer, "reward", follows, "", finish))
    engines = run_scorers(context, writer, scorers)
    return (_combine_parts(context, writer, finish, statistics, measured_R) if parts else None), engines


def _gold_rows(_: int, scores: pa.Table | None) -> pa.Table:
    if scores is None:
        return GOLD_SCHEMA.empty_table()
    columns = [scores["response_id"], scores["reward"], scores["drop_reason"]]
    return pa.table(columns, names=GOLD_SCHEMA.names).cast(GOLD_SCHEMA)


def _part_rows(_: int, scores: pa.Table | None) -> pa.Table:
    return SCORES_SCHEMA.empty_table() if scores is None else scores.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)


def _combine_parts(
    context: StageContext,
    writer: StageWriter,
    finish: Finish,
    statistics: Mapping[str, Spread] | None,
    measured_R: Bools | None,
) -> CombinedReward:
    settings = context.settings.reward
    weights = {name: settings.parts[name].weight for name in sorted(settings.parts)}
    first = f"{PARTS}/{min(weights)}"
    sizes = [writer.entry(index, first).rows or 0 for index in sorted(writer.shards(first))]
    values = {name: _floats(writer.read_shards(f"{PARTS}/{name}", ["reward"])["reward"]) for name in weights}
    if statistics is None:
        measured_R = np.ones(sum(sizes), dtype=np.bool_) if measured_R is None else measured_R
        statistics = part_statistics({name: values_R[measured_R] for name, values_R in values.items()})
        _say_what_has_no_spread(context, statistics, int(measured_R.sum()))
    reward_R = combine(values, weights, settings.normalize, statistics)
    starts = np.cumsum([0, *sizes])
    for index, size in enumerate(sizes):
        parts = {name: writer.read_shard(index, f"{PARTS}/{name}") for name in weights}
        own_R = reward_R[starts[index] : starts[index + 1]]
        rows = finish(index, _combined_shard(parts, own_R) if size else None)
        writer.keep_shard(index, rows, reads=writer.reads(index, first))
    used = {
        name: RewardPart(weight, statistics[name].mean, statistics[name].std, int(np.isfinite(values[name]).sum()))
        for name, weight in weights.items()
    }
    return CombinedReward(settings.normalize, used)


def _combined_shard(parts: Mapping[str, pa.Table], reward_R: Floats) -> pa.Table:
    """The scores of a shard from those of each part. The reason of a response without a combined reward is that of the first
    part that has one, with the part's name."""
    ids = next(iter(parts.values()))["response_id"]
    assert all(table["response_id"].equals(ids) for table in parts.values()), "parts are of different responses"
    reasons = [pc.binary_join_element_wise(name, parts[name]["drop_reason"], ": ") for name in sorted(parts)]
    no_number = pc.if_else(pa.array(np.isfinite(reward_R)), pa.scalar(None, pa.string()), REWARD_NOT_FINITE)
    return pa.table(
        {
            "response_id": ids,
            "reward": pa.array(reward_R, pa.float64(), from_pandas=True),
            **{part_column(name): table["reward"] for name, table in parts.items()},
            "drop_reason": pc.coalesce(*reasons, no_number),
        }
    )


def _say_what_has_no_spread(context: StageContext, statistics: Mapping[str, Spread], count: int) -> None:
    if context.settings.reward.normalize == "none" or count < 2:
        return
    for name in sorted(name for name, over in statistics.items() if over.std == 0):
        context.reporter.say(
            f"reward.parts.{name} gave all {count} responses the same reward, or gave no rewards. Its z-scores are 0, so it "
            "has no effect"
        )
    for name, over in sorted(statistics.items()):
        if 0 < over.std < _ROUNDING * abs(over.mean):
            context.reporter.say(
                f"reward.parts.{name} differs between the responses by less than float32 numbers can say: {over.mean:g} with a "
                f"standard deviation of {over.std:.1g}. Its z-scores make rounding count as much as other parts"
            )


def _floats(column: pa.ChunkedArray) -> Floats:
    """A column of numbers with NaN for null."""
    return np.array(column.to_numpy(), dtype=np.float64)
