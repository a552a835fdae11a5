"""Stage *pair*: candidate pairs from the responses of each prompt, and one reason for every response that is in none.

The stage's table is `unused`. The candidates themselves lie hidden beside it (`.pairs/`): complete pairs, with log-probs and
ranks, are in *select*.
"""

from __future__ import annotations

import time
from collections import Counter

import pyarrow as pa

from selfplay.records import Unused, to_table
from selfplay.selection.pairing import best_worst
from selfplay.selection.responses import response_pool
from selfplay.stages.context import Context

CANDIDATES = ".pairs"


def run(context: Context, round_number: int) -> None:
    """Write the unused table and the candidate pairs of a round."""
    started = time.monotonic()
    reads = [(round_number, "sample"), (round_number, "score")]
    writer = context.writer(round_number, "pair", reads)
    columns = ["response_id", "prompt_id", "response_index", "text", "finish_reason"]
    responses = context.store.table(round_number, "sample", columns=columns)
    rewards = context.store.table(round_number, "score", columns=["response_id", "reward", "drop_reason"])
    assert rewards["response_id"].equals(responses["response_id"]), "rewards are not in the order of the responses"
    pairing = best_worst(
        response_pool(
            prompt_ids=responses["prompt_id"].to_pylist(),
            response_index=responses["response_index"].to_pylist(),
            rewards=rewards["reward"].to_pylist(),
            texts=responses["text"].to_pylist(),
            finish_reasons=responses["finish_reason"].to_pylist(),
            drop_reasons=rewards["drop_reason"].to_pylist(),
        )
    )
    ids = responses["response_id"].to_pylist()
    unused = [Unused(name, reason) for name, reason in zip(ids, pairing.reason_R, strict=True) if reason is not None]
    candidates = pa.table(
        {
            "chosen_response_id": pa.array([ids[row] for row in pairing.chosen_P], pa.string()),
            "rejected_response_id": pa.array([ids[row] for row in pairing.rejected_P], pa.string()),
        }
    )
    assert len(unused) + 2 * candidates.num_rows == len(ids), "a response is neither in a pair nor has a reason"
    if not writer.shards(CANDIDATES):
        writer.write_shard(0, candidates, CANDIDATES)
    if not writer.shards():
        writer.write_shard(0, to_table(Unused, unused))
    metrics = {"num_pairs": candidates.num_rows, "unused_reasons": dict(Counter(row.reason for row in unused))}
    context.commit(writer, started, metrics)
