"""What stages *score* and *evaluate* share: rewards of responses shard by shard, from one scorer or from several whose rewards
are combined, and the gold judge's beside them.

Parts of a combined reward are z-scored over a whole pool, so each part's shards are kept by themselves first, hidden in the
stage's folder (`.parts/NAME`), and the stage's own shards are made of them once all are there: a kill between two parts loses
neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import GOLD_SCHEMA, SCORES_SCHEMA
from selfplay.core.commands import shell_command
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import CombinedReward, RewardEngine, RewardPart
from selfplay.core.pool import Pool
from selfplay.core.protocols import ScoreItem
from selfplay.core.records import part_column
from selfplay.core.stages import GOLD, PARTS
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import LazyItems, Shard, cut_as_begun, run_shards
from selfplay.inputs.models.thinking import WHOLE, Answer, Thinking
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.reward_engine import TRANSFORMERS, choose_engine
from selfplay.run.stages.rows import count_values
from selfplay.selection.arrays import Bools, Floats, Ints, run_starts
from selfplay.selection.margins import Spread
from selfplay.selection.reasons import REWARD_NOT_FINITE
from selfplay.selection.rewards import combine, part_statistics
from selfplay.store.lazy_table import RowReader
from selfplay.store.writer import StageWriter

JUDGE = "evaluation.gold"

# A shard's index and its scores (response_id, reward, reward_NAME of each part, drop_reason; None: the shard has no
# responses) as the rows that the stage keeps.
Finish = Callable[[int, pa.Table | None], pa.Table]
# All shards or, where the responses are still sampled, those that are there: see run_shards. Every scorer asks for them anew.
Shards = Callable[[], Sequence[Sequence[ScoreItem]] | Iterable[Shard[ScoreItem] | None]]


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
    """What a scorer is given of responses: the conversation, the text, the prompt's other columns (or the response's own, which
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


def batched_sources(context: StageContext) -> list[str]:
    """The sections of the rewards whose function is called once for each unit."""
    return [section for section, source in context.settings.reward.sources().items() if source.batched]


def judge_shards(
    context: StageContext,
    writer: StageWriter,
    pool: Pool,
    shards: Shards,
    *,
    title: str,
    total: int = 0,
) -> None:
    """Have the gold judge score every shard: kept under `.gold`. Raises BackendError when it failed too often."""

    def judged(_: int, table: pa.Table | None) -> pa.Table:
        if table is None:
            return GOLD_SCHEMA.empty_table()
        table = only_numbers(table)
        check_failures(context, table, JUDGE)
        columns = [table["response_id"], table["reward"], table["drop_reason"]]
        return pa.table(columns, names=GOLD_SCHEMA.names).cast(GOLD_SCHEMA)

    run_shards(
        context, writer, pool, "score", shards(), lambda shard: (list(shard),), judged,
        title=title, unit="responses", table=GOLD, quarantine=no_reward(context, batched=False), total=total,
    )  # fmt: skip


def no_reward(context: StageContext, *, batched: bool) -> QuarantinePolicy[ScoreItem]:
    """A response that kills its scorer has no reward, and the reason; so have, where the scorer is a batched function, the other
    responses of its unit."""

    def row(item: ScoreItem, reason: str) -> pa.Table:
        return pa.Table.from_pylist(
            [{"response_id": item.response_id, "reward": None, "drop_reason": reason}], schema=SCORES_SCHEMA
        )

    unit = (lambda item: item.unit) if batched else None
    return QuarantinePolicy(lambda item: item.response_id, row, context.settings.max_poison_items, unit)


def gold_drop_reasons(writer: StageWriter) -> dict[str, int]:
    """Why responses of a stage have no gold reward, counted over the judge's shards."""
    if not writer.shards(GOLD):
        return {}
    return count_values(writer.read_shards(GOLD, ["gold_drop_reason"])["gold_drop_reason"])


def reward_shards(
    context: StageContext,
    writer: StageWriter,
    shards: Shards,
    finish: Finish,
    *,
    title: str,
    total: int = 0,
    statistics: Mapping[str, Spread] | None = None,
    measured_R: Bools | None = None,
) -> tuple[CombinedReward | None, dict[str, RewardEngine]]:
    """Have every shard scored and keep its rows as `finish` makes them.

    Where rewards are combined, their parts are normalised by `statistics` (part by name), else by those over the responses of
    `measured_R` (None: all), and what was used is returned, to be recorded; None for a single reward. Beside it is what computed
    the rewards of each model, by its section. Raises BackendError when a scorer failed too often.
    """

    batched, engines = batched_sources(context), dict[str, RewardEngine]()

    def ask(pool: Pool, section: str, title: str, keep: Finish, table: str = "") -> None:
        def checked(index: int, scores: pa.Table | None) -> pa.Table:
            if scores is not None:
                scores = only_numbers(scores)
                check_failures(context, scores, section)
            return keep(index, scores)

        engine = choose_engine(context, writer, pool, section, shards, title=title, table=table)
        if engine is not None:
            engines[section] = engine
        # transformers is what a reward model has without being asked
        asked = () if engine is None or engine.engine == TRANSFORMERS else (engine.engine,)
        run_shards(
            context, writer, pool, "score", shards(), lambda shard: (list(shard), *asked), checked,
            title=title, unit="responses", table=table, quarantine=no_reward(context, batched=section in batched), total=total,
        )  # fmt: skip

    if not context.settings.reward.parts:
        assert context.workers.scorer is not None, "a reward without parts has one scorer"
        ask(context.workers.scorer, "reward", title, finish)
        return None, engines
    for name in sorted(context.settings.reward.parts):
        pool = context.workers.parts[name]
        ask(pool, f"reward.parts.{name}", f"{title}, {name}", _part_rows, f"{PARTS}/{name}")
    return _combine_parts(context, writer, finish, statistics, measured_R), engines


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
    combined = combine(values, weights, settings.normalize, statistics)
    starts = np.cumsum([0, *sizes])
    for index, size in enumerate(sizes):
        parts = {name: writer.read_shard(index, f"{PARTS}/{name}") for name in weights}
        reward_R = combined.reward_R[starts[index] : starts[index + 1]]
        rows = finish(index, _combined_shard(parts, reward_R) if size else None)
        writer.keep_shard(index, rows, reads=writer.reads(index, first))
    used = {
        name: RewardPart(weights[name], over.mean, over.std, int(np.isfinite(values[name]).sum()))
        for name, over in combined.statistics.items()
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


def _floats(column: pa.ChunkedArray) -> Floats:
    """A column of numbers with NaN for null."""
    return np.array(column.to_numpy(), dtype=np.float64)


def only_numbers(scores: pa.Table) -> pa.Table:
    """A scorer's answers with null, and a reason, in the place of rewards that are no finite numbers."""
    rewards = scores["reward"].cast(pa.float64())
    finite = pa.array(np.isfinite(_floats(rewards)))
    given = scores["drop_reason"].cast(pa.string())
    columns = {
        "reward": pc.if_else(finite, rewards, None),
        "drop_reason": pc.if_else(pc.or_(finite, pc.is_valid(given)), given, REWARD_NOT_FINITE),
    }
    return pa.table({name: columns.get(name, scores[name]) for name in scores.column_names})


def check_failures(context: StageContext, table: pa.Table, section: str) -> None:
    """Raise when more of a shard failed than `reward.max_failed` allows: a broken reward, or judge, must not eat a round.
    `section` is whose scores they are: JUDGE, or one of `RewardConfig.sources`."""
    reasons = count_values(table["drop_reason"].filter(pc.starts_with(table["drop_reason"], "reward_")))
    settings, num_failed = context.settings, sum(reasons.values())
    if not reasons or num_failed <= settings.reward.max_failed * table.num_rows:
        return
    common, count = Counter(reasons).most_common(1)[0]
    if section == JUDGE:
        function = settings.evaluation.gold if settings.evaluation else None
        name = f"the gold judge ({section})"
    else:
        function = settings.reward.sources()[section].function
        name = f"the reward ({section}.{'model' if function is None else 'function'})"
    root = context.store.layout.root
    enough = 0.5 if num_failed <= 0.5 * table.num_rows else 1.0
    raise BackendError(
        f"{name} failed for {num_failed} of {table.num_rows} responses of a shard; most often ({count}): {common}",
        f"If a service that it calls failed for a while, `{shell_command('resume', root)}` scores the rest. "
        + ("A changed function makes another run: its source is pinned. " if function is not None else "")
        + f"`{shell_command('resume', root, f'reward.max_failed={enough}')}` allows more failures.",
    )
