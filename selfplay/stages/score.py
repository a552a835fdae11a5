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


def run(context: Context, round_number: int) -> None:
    """Write the rewards table of a round; with a gold reward, that of the same responses beside it."""
    started = time.monotonic()
    writer = context.writer(round_number, "score", [(round_number, "prompts"), (round_number, "sample")])
    prompts = {prompt.prompt_id: prompt for prompt in admitted(context, round_number)}
    columns = ["response_id", "prompt_id", "text", "finish_reason"]
    rows = context.store.table(round_number, "sample", columns=columns).to_pylist()
    size = context.config.sampling.shard_size * context.config.sampling.num_responses
    shards = cut(rows, size)
    if context.workers.gold is not None:
        run_shards(
            context, writer, context.workers.gold, "score", shards,
            lambda shard: (score_items(shard, prompts),),
            lambda _, table: judged(table),
            title=f"round {round_number} gold", unit="responses", table=".gold",
        )  # fmt: skip
    run_shards(
        context, writer, context.workers.scorer, "score", shards,
        lambda shard: (score_items(shard, prompts),),
        lambda index, table: _complete(context, table, writer.read_shard(index, ".gold") if context.workers.gold else None),
        title=f"round {round_number} score", unit="responses",
    )  # fmt: skip
    scored = pa.concat_tables([writer.read_shard(index) for index in sorted(writer.shards())])
    context.commit(writer, started, {"num_responses": scored.num_rows, **reward_metrics(scored)})


def score_items(rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, Prompt]) -> list[ScoreItem]:
    """What a scorer is given of responses: the conversation, the text, the prompt's other columns."""
    items = []
    for row in rows:
        prompt = prompts[row["prompt_id"]]
        turns = [message for message in prompt.messages if message["role"] != "system"]
        items.append(
            ScoreItem(
                response_id=row["response_id"],
                messages=prompt.messages,
                response=row["text"],
                finish_reason=row["finish_reason"],
                columns=json.loads(prompt.columns_json),
                plain_prompt=len(turns) == 1,
            )
        )
    return items


def judged(table: pa.Table | None) -> pa.Table:
    """A judge's own table: response_id and gold_reward."""
    if table is None:
        return pa.table({"response_id": pa.array([], pa.string()), "gold_reward": pa.array([], pa.float64())})
    return pa.table({"response_id": table["response_id"], "gold_reward": table["reward"].cast(pa.float64())})


def check_failures(context: Context, table: pa.Table) -> None:
    """Raise when more of a shard failed than `reward.max_failed` allows: a broken reward must not eat a round."""
    reasons = [reason for reason in table["drop_reason"].to_pylist() if reason and reason.startswith("reward_")]
    allowed = context.config.reward.max_failed
    if reasons and len(reasons) > allowed * table.num_rows:
        common, count = Counter(reasons).most_common(1)[0]
        raise BackendError(
            f"the reward failed for {len(reasons)} of {table.num_rows} responses of a shard; most often ({count}): {common}",
            "Mend the reward and resume (what is scored is kept), or allow more with reward.max_failed.",
        )


def reward_metrics(scored: pa.Table) -> dict[str, Any]:
    """Counts and means of a rewards table."""
    reasons = Counter(reason for reason in scored["drop_reason"].to_pylist() if reason)
    return {
        "num_scored": int(pc.count(scored["reward"]).as_py()),
        "reward_mean": pc.mean(scored["reward"]).as_py(),
        "reward_std": pc.stddev(scored["reward"]).as_py(),
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
