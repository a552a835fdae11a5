"""What stages *score* and *evaluate* share: rewards of responses shard by shard, from one scorer or from several whose rewards
are combined, and the gold judge's beside them.

Parts of a combined reward are z-scored over a whole pool, so each part's shards are kept by themselves first, hidden in the
stage's folder (`.parts/NAME`), and the stage's own shards are made of them once all are there: a kill between two parts loses
neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import BackendError
from selfplay.core.outcomes import CombinedReward, RewardPart
from selfplay.core.pool import Pool
from selfplay.core.protocols import ScoreItem
from selfplay.core.records import Prompt, part_column
from selfplay.core.stages import GOLD, GOLD_SCHEMA, PARTS, SCORES_SCHEMA
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import run_shards
from selfplay.run.stages.context import StageContext
from selfplay.selection.arrays import Floats
from selfplay.selection.margins import Spread
from selfplay.selection.reasons import REWARD_NOT_FINITE
from selfplay.selection.rewards import combine, part_statistics
from selfplay.store.writer import StageWriter

JUDGE = "evaluation.gold"

Row = Mapping[str, Any]
# A shard's index and its scores (response_id, reward, reward_NAME of each part, drop_reason; None: the shard has no
# responses) as the rows that the stage keeps.
Finish = Callable[[int, pa.Table | None], pa.Table]


def score_items(rows: Sequence[Row], prompts: Mapping[str, Prompt]) -> list[ScoreItem]:
    """What a scorer is given of responses: the conversation, the text, the prompt's other columns (or the response's own,
    which only responses of a dataset have)."""
    items = []
    for row in rows:
        prompt = prompts[row["prompt_id"]]
        items.append(
            ScoreItem(
                response_id=row["response_id"],
                messages=prompt.messages,
                response=row["text"],
                finish_reason=row["finish_reason"],
                columns=json.loads(row.get("columns_json") or prompt.columns_json),
            )
        )
    return items


def judge_shards(
    context: StageContext,
    writer: StageWriter,
    pool: Pool,
    shards: Sequence[Sequence[Row]],
    prompts: Mapping[str, Prompt],
    *,
    title: str,
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
        context, writer, pool, "score", shards, lambda shard: (score_items(shard, prompts),), judged,
        title=title, unit="responses", table=GOLD, quarantine=no_reward(context),
    )  # fmt: skip


def no_reward(context: StageContext) -> QuarantinePolicy[Row]:
    """A response that kills its scorer has no reward, and the reason."""

    def row(response: Row, reason: str) -> pa.Table:
        return pa.Table.from_pylist(
            [{"response_id": response["response_id"], "reward": None, "drop_reason": reason}], schema=SCORES_SCHEMA
        )

    return QuarantinePolicy(lambda response: str(response["response_id"]), row, context.settings.max_poison_items)


def gold_drop_reasons(writer: StageWriter) -> dict[str, int]:
    """Why responses of a stage have no gold reward, counted over the judge's shards."""
    reasons: Counter[str] = Counter()
    for index in writer.shards(GOLD):
        reasons.update(reason for reason in writer.read_shard(index, GOLD)["gold_drop_reason"].to_pylist() if reason)
    return dict(reasons)


def reward_shards(
    context: StageContext,
    writer: StageWriter,
    shards: Sequence[Sequence[Row]],
    prompts: Mapping[str, Prompt],
    finish: Finish,
    *,
    title: str,
    statistics: Mapping[str, Spread] | None = None,
    measured: Callable[[Row], bool] = lambda _: True,
) -> CombinedReward | None:
    """Have every shard scored and keep its rows as `finish` makes them.

    Where rewards are combined, their parts are normalised by `statistics` (part by name), else by those over the `measured`
    responses, and what was used is returned, to be recorded; None for a single reward. Raises
    BackendError when a scorer failed too often.
    """

    def ask(pool: Pool, section: str, title: str, keep: Finish, table: str = "") -> None:
        def checked(index: int, scores: pa.Table | None) -> pa.Table:
            if scores is not None:
                scores = only_numbers(scores)
                check_failures(context, scores, section)
            return keep(index, scores)

        run_shards(
            context, writer, pool, "score", shards, lambda shard: (score_items(shard, prompts),), checked,
            title=title, unit="responses", table=table, quarantine=no_reward(context),
        )  # fmt: skip

    if not context.settings.reward.parts:
        assert context.workers.scorer is not None, "a reward without parts has one scorer"
        ask(context.workers.scorer, "reward", title, finish)
        return None
    for name in sorted(context.settings.reward.parts):
        pool = context.workers.parts[name]
        ask(pool, f"reward.parts.{name}", f"{title}, {name}", _part_rows, f"{PARTS}/{name}")
    return _combine_parts(context, writer, shards, finish, statistics, measured)


def _part_rows(_: int, scores: pa.Table | None) -> pa.Table:
    return SCORES_SCHEMA.empty_table() if scores is None else scores.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)


def _combine_parts(
    context: StageContext,
    writer: StageWriter,
    shards: Sequence[Sequence[Row]],
    finish: Finish,
    statistics: Mapping[str, Spread] | None,
    measured: Callable[[Row], bool],
) -> CombinedReward:
    settings = context.settings.reward
    weights = {name: settings.parts[name].weight for name in sorted(settings.parts)}
    tables = {
        name: pa.concat_tables([writer.read_shard(index, f"{PARTS}/{name}") for index in range(len(shards))])
        for name in weights
    }
    asked = [row["response_id"] for shard in shards for row in shard]
    values = {name: _floats(table["reward"]) for name, table in tables.items()}
    assert all(table["response_id"].to_pylist() == asked for table in tables.values()), "a part is of other responses"
    if statistics is None:
        measured_R = np.array([measured(row) for shard in shards for row in shard], dtype=np.bool_)
        statistics = part_statistics({name: values_R[measured_R] for name, values_R in values.items()})
        _say_what_has_no_spread(context, statistics, int(measured_R.sum()))
    combined = combine(values, weights, settings.normalize, statistics)
    scores = pa.table(
        {
            "response_id": pa.array(asked, pa.string()),
            "reward": pa.array(combined.reward_R, pa.float64(), from_pandas=True),
            **{part_column(name): table["reward"] for name, table in tables.items()},
            "drop_reason": pa.array(_first_reasons(tables, combined.reward_R), pa.string()),
        }
    )
    start, kept = 0, writer.shards()
    for index, shard in enumerate(shards):
        if index not in kept:
            writer.write_shard(index, finish(index, scores.slice(start, len(shard)) if shard else None))
        start += len(shard)
    used = {
        name: RewardPart(weights[name], over.mean, over.std, int(np.isfinite(values[name]).sum()))
        for name, over in combined.statistics.items()
    }
    return CombinedReward(settings.normalize, used)


def _say_what_has_no_spread(context: StageContext, statistics: Mapping[str, Spread], count: int) -> None:
    if context.settings.reward.normalize == "none" or count < 2:
        return
    for name in sorted(name for name, over in statistics.items() if over.std == 0):
        context.reporter.say(
            f"reward.parts.{name} gave the same reward to all of {count} responses, or none to any: z-scored by these, it "
            "counts for nothing"
        )


def _floats(column: pa.ChunkedArray) -> Floats:
    """A column of numbers with NaN for null."""
    return np.array(column.to_numpy(), dtype=np.float64)


def _first_reasons(tables: Mapping[str, pa.Table], reward_R: Floats) -> list[str | None]:
    """Why each response has no combined reward: the first part's reason, with its name."""
    reasons: list[str | None] = [None if ok else REWARD_NOT_FINITE for ok in np.isfinite(reward_R)]
    for name in sorted(tables, reverse=True):
        for row, reason in enumerate(tables[name]["drop_reason"].to_pylist()):
            if reason is not None:
                reasons[row] = f"{name}: {reason}"
    return reasons


def only_numbers(scores: pa.Table) -> pa.Table:
    """A scorer's answers with null, and a reason, in the place of rewards that are no finite numbers."""
    finite = np.isfinite(_floats(scores["reward"].cast(pa.float64())))
    reasons = [
        reason if ok or reason is not None else REWARD_NOT_FINITE
        for ok, reason in zip(finite, scores["drop_reason"].to_pylist(), strict=True)
    ]
    reward = pc.if_else(pa.array(finite), scores["reward"].cast(pa.float64()), None)
    columns = {"reward": reward, "drop_reason": pa.array(reasons, pa.string())}
    return pa.table({name: columns.get(name, scores[name]) for name in scores.column_names})


def check_failures(context: StageContext, table: pa.Table, section: str) -> None:
    """Raise when more of a shard failed than `reward.max_failed` allows: a broken reward, or judge, must not eat a round.
    `section` is whose scores they are: JUDGE, or one of `RewardConfig.sources`."""
    reasons = [reason for reason in table["drop_reason"].to_pylist() if reason and reason.startswith("reward_")]
    settings = context.settings
    if not reasons or len(reasons) <= settings.reward.max_failed * table.num_rows:
        return
    common, count = Counter(reasons).most_common(1)[0]
    if section == JUDGE:
        function = settings.evaluation.gold if settings.evaluation else None
        name = f"the gold judge ({section})"
    else:
        function = settings.reward.sources()[section].function
        name = f"the reward ({section}.{'model' if function is None else 'function'})"
    again = f"`selfplay resume {context.store.layout.root}"
    enough = 0.5 if len(reasons) <= 0.5 * table.num_rows else 1.0
    raise BackendError(
        f"{name} failed for {len(reasons)} of {table.num_rows} responses of a shard; most often ({count}): {common}",
        f"If something it calls was out of order for a while, {again}` scores the rest. "
        + ("A changed function makes another run: its source is pinned. " if function is not None else "")
        + f"{again} reward.max_failed={enough}` allows more failures.",
    )
