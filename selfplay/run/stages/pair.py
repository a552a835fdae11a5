"""Stage *pair*: candidate pairs from the responses of each prompt, and one reason for every response that is in none.

The stage's table is `unused`. The candidates themselves lie hidden beside it (`.pairs/`): complete pairs, with log-probs and
ranks, are in *select*. Everything that can be known without log-probs is decided here. Nothing is too long for training: prompts
that leave no room for a response of `sampling.max_tokens` were dropped before anything was sampled.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.outcomes import ForcedGate, PairOutcome
from selfplay.core.records import Unused, schema
from selfplay.core.stages import CANDIDATES
from selfplay.run.stages import gates
from selfplay.run.stages.context import StageContext, derive_seed
from selfplay.selection.pairing import Pairing, build_pairs
from selfplay.selection.responses import ResponsePool, response_pool


def run(context: StageContext, round_number: int) -> None:
    """Write the unused table and the candidate pairs of a round."""
    started = time.monotonic()
    forced = gates.check(context, round_number)
    writer = context.writer(round_number, "pair")
    ids, pool = _pool(context, round_number)
    seed = derive_seed(context.settings.seed, "pair", round_number)
    pairing = build_pairs(pool, context.settings.pairs, seed)
    candidates, unused = candidate_table(ids, pairing), unused_table(ids, pairing)
    paired = pa.chunked_array([candidates["chosen_response_id"], candidates["rejected_response_id"]]).unique()
    assert len(paired) + unused.num_rows == len(ids), "a response is neither in a pair nor has a reason"
    if not writer.shards(CANDIDATES):
        writer.write_shard(0, candidates, CANDIDATES)
    if not writer.shards():
        writer.write_shard(0, unused)
    context.commit(writer, started, pair_outcome(pool, pairing, forced))


def candidates(context: StageContext, round_number: int) -> pa.Table:
    """The candidate pairs of a round. Those of a dataset that have a drop reason already are left out."""
    table = context.store.table(round_number, "pair", CANDIDATES)
    return table.filter(pc.is_null(table["drop_reason"])) if context.from_dataset else table


def _pool(context: StageContext, round_number: int) -> tuple[pa.Array, ResponsePool]:
    """The ids of a round's responses, and the responses as the builders see them, row by row."""
    columns = ["response_id", "prompt_id", "response_index", "text", "finish_reason", "num_tokens"]
    responses = context.store.table(round_number, "sample", columns=columns)
    rewards = context.store.table(round_number, "score", columns=["response_id", "reward", "drop_reason"])
    assert rewards["response_id"].equals(responses["response_id"]), "rewards are not in the order of the responses"
    return responses["response_id"].combine_chunks(), response_pool(
        prompt_ids=responses["prompt_id"].to_pylist(),
        response_index=responses["response_index"].to_numpy(),
        rewards=rewards["reward"].to_numpy(),
        texts=responses["text"].to_pylist(),
        finish_reasons=responses["finish_reason"].to_pylist(),
        drop_reasons=rewards["drop_reason"].to_pylist(),
        num_tokens=responses["num_tokens"].to_numpy(),
    )


def candidate_table(ids: pa.Array, pairing: Pairing) -> pa.Table:
    """The candidate pairs by response id; rewards are those that they were built by."""
    return pa.table(
        {
            "chosen_response_id": ids.take(pa.array(pairing.chosen_P)),
            "rejected_response_id": ids.take(pa.array(pairing.rejected_P)),
            "reward_chosen": pairing.reward_chosen_P,
            "reward_rejected": pairing.reward_rejected_P,
            "prompt_reward_mean": pairing.prompt_reward_mean_P,
            "prompt_reward_std": pairing.prompt_reward_std_P,
        }
    )


def unused_table(ids: pa.Array, pairing: Pairing) -> pa.Table:
    """The responses in no pair, `Unused` rows."""
    reasons = pa.array(pairing.reason_R.tolist(), pa.string())
    table = pa.table([ids, reasons], names=schema(Unused).names)
    return table.filter(pc.is_valid(reasons)).cast(schema(Unused))


def pair_outcome(pool: ResponsePool, pairing: Pairing, gates_forced: list[ForcedGate]) -> PairOutcome:
    """What is recorded about a pairing."""
    tokens_R = pool.num_tokens_R
    assert tokens_R is not None  # a run knows them
    gap_P = tokens_R[pairing.chosen_P] - tokens_R[pairing.rejected_P]
    return PairOutcome(
        num_pairs=len(pairing.chosen_P),
        num_prompts_paired=len(np.unique(pool.prompt_R[pairing.chosen_P])),
        unused_reasons=pairing.reason_R.counts(),
        length_penalty=pairing.length_penalty,
        length_fit=pairing.fit,
        length_gap_mean=float(gap_P.mean()) if len(gap_P) else None,
        gates_forced=gates_forced,
    )
