"""Stage *score*: a reward for every response, or the reason why it has none. A failed reward is never a number."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.errors import BackendError
from selfplay.protocols import ScoreItem
from selfplay.records import Prompt, Reward, schema
from selfplay.stages.context import Context, cut, run_shards
from selfplay.stages.prompts import admitted
from selfplay.store.writer import StageWriter

# What is kept of a judge's answers beside a table, shard by shard.
_JUDGED = pa.schema([("response_id", pa.string()), ("gold_reward", pa.float64()), ("gold_drop_reason", pa.string())])


def run(context: Context, round_number: int) -> None:
    """Write the rewards table of a round; with a gold judge, its reward of the same responses beside it (unless the judge
    needs columns that only the held-out prompts have)."""
    started = time.monotonic()
    writer = context.writer(round_number, "score", [(round_number, "prompts"), (round_number, "sample")])
    prompts = {prompt.prompt_id: prompt for prompt in admitted(context, round_number)}
    columns = ["response_id", "prompt_id", "text", "finish_reason"]
    rows = context.store.table(round_number, "sample", columns=columns).to_pylist()
    size = context.config.sampling.shard_size * context.config.sampling.num_responses
    shards = cut(rows, size)
    gold = context.workers.gold if context.inputs.gold_on_training else None
    if gold is not None:
        run_shards(
            context, writer, gold, "score", shards,
            lambda shard: (score_items(shard, prompts),),
            lambda _, table: judged(context, table),
            title=f"round {round_number} gold", unit="responses", table=".gold",
        )  # fmt: skip
    run_shards(
        context, writer, context.workers.scorer, "score", shards,
        lambda shard: (score_items(shard, prompts),),
        lambda index, table: _complete(context, table, writer.read_shard(index, ".gold") if gold else None),
        title=f"round {round_number} score", unit="responses",
    )  # fmt: skip
    scored = pa.concat_tables([writer.read_shard(index) for index in sorted(writer.shards())])
    metrics = {
        "num_responses": scored.num_rows,
        **reward_metrics(scored),
        "gold_drop_reasons": gold_drop_reasons(writer) if gold is not None else {},
        "gold_lacks": list(context.inputs.gold_lacks),
    }
    context.commit(writer, started, metrics)


def score_items(rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]) -> list[ScoreItem]:
    """What a scorer is given of responses: the conversation, the text, the prompt's other columns."""
    items = []
    for row in rows:
        prompt = prompts[row["prompt_id"]]
        items.append(
            ScoreItem(
                response_id=row["response_id"],
                messages=prompt.messages,
                response=row["text"],
                finish_reason=row["finish_reason"],
                columns=json.loads(prompt.columns_json),
            )
        )
    return items


def judged(context: Context, table: pa.Table | None) -> pa.Table:
    """A judge's own table of a shard, from what it returned. Raises BackendError when it failed too often."""
    if table is None:
        return _JUDGED.empty_table()
    check_failures(context, table, judge=True)
    columns = [table["response_id"], table["reward"], table["drop_reason"]]
    return pa.table(columns, names=_JUDGED.names).cast(_JUDGED)


def gold_drop_reasons(writer: StageWriter) -> dict[str, int]:
    """Why responses of a stage have no gold reward, counted over the judge's shards."""
    reasons: Counter[str] = Counter()
    for index in writer.shards(".gold"):
        reasons.update(reason for reason in writer.read_shard(index, ".gold")["gold_drop_reason"].to_pylist() if reason)
    return dict(reasons)


def check_failures(context: Context, table: pa.Table, *, judge: bool = False) -> None:
    """Raise when more of a shard failed than `reward.max_failed` allows: a broken reward, or judge, must not eat a round."""
    reasons = [reason for reason in table["drop_reason"].to_pylist() if reason and reason.startswith("reward_")]
    config = context.config
    if not reasons or len(reasons) <= config.reward.max_failed * table.num_rows:
        return
    common, count = Counter(reasons).most_common(1)[0]
    setting, function = "reward.model", config.reward.function
    if judge:
        setting, function = "evaluation.gold", config.evaluation.gold if config.evaluation else None
    elif function is not None:
        setting = "reward.function"
    name = f"the gold judge ({setting})" if judge else f"the reward ({setting})"
    again = f"`selfplay resume {context.store.layout.root}"
    enough = 0.5 if len(reasons) <= 0.5 * table.num_rows else 1.0
    raise BackendError(
        f"{name} failed for {len(reasons)} of {table.num_rows} responses of a shard; most often ({count}): {common}",
        f"If something it calls was out of order for a while, {again}` scores the rest. "
        + ("A changed function makes another run: its source is pinned. " if function is not None else "")
        + f"{again} reward.max_failed={enough}` allows more failures.",
    )


def reward_metrics(scored: pa.Table) -> dict[str, Any]:
    """Counts and means of a rewards table; `num_gold` counts the responses that the judge gave a number."""
    reasons = Counter(reason for reason in scored["drop_reason"].to_pylist() if reason)
    return {
        "num_scored": int(pc.count(scored["reward"]).as_py()),
        "reward_mean": pc.mean(scored["reward"]).as_py(),
        "reward_std": pc.stddev(scored["reward"]).as_py(),
        "num_gold": int(pc.count(scored["gold_reward"]).as_py()),
        "gold_reward_mean": pc.mean(scored["gold_reward"]).as_py(),
        "drop_reasons": dict(reasons),
    }


def _complete(context: Context, table: pa.Table | None, gold: pa.Table | None) -> pa.Table:
    shape = schema(Reward)
    if table is None:
        return shape.empty_table()
    check_failures(context, table)
    if gold is not None:
        assert gold["response_id"].equals(table["response_id"]), "the judge's rows are not the reward's"
    judge = gold["gold_reward"] if gold is not None else pa.nulls(table.num_rows, pa.float64())
    return pa.table(
        {
            "response_id": table["response_id"],
            "reward": table["reward"],
            "gold_reward": judge,
            "drop_reason": table["drop_reason"],
        }
    ).cast(shape)
