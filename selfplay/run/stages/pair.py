"""Stage *pair*: candidate pairs from the responses of each prompt, and one reason for every response that is in none.

The stage's table is `unused`. The candidates themselves lie hidden beside it (`.pairs/`): complete pairs, with log-probs and
ranks, are in *select*. Everything that can be known without log-probs is decided here. Nothing is too long for training: prompts
that leave no room for a response of `sampling.max_tokens` were dropped before anything was sampled.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from selfplay.core.outcomes import ForcedGate, PairOutcome
from selfplay.core.records import Unused, schema
from selfplay.core.stages import CANDIDATES
from selfplay.execution.sharding import LazyItems
from selfplay.run.stages import gates
from selfplay.run.stages.context import StageContext, derive_seed
from selfplay.run.stages.responses import COLUMNS, RoundResponses
from selfplay.selection.pairing import Pairing, build_pairs
from selfplay.selection.reasons import DropReasons, is_kept
from selfplay.selection.responses import ResponsePool
from selfplay.store.shard_feed import ShardFeed


def run(context: StageContext, round_number: int) -> None:
    """Write the unused table and the candidate pairs of a round: of each shard of *score*, as it comes. The gates look at all."""
    started = time.monotonic()
    writer = context.writer(round_number, "pair")
    seed = derive_seed(context.settings.seed, "pair", round_number)
    sample, score = context.feed(round_number, "sample"), context.feed(round_number, "score")
    at_once = is_built_at_once(context)
    if at_once:
        context.require_end(score)
    responses, outcomes = dict[int, RoundResponses](), dict[int, PairOutcome]()
    for indices in [sorted(score)] if at_once else ([index] for index in score):
        context.stop.check()
        found = {index: _read(sample, score, index) for index in indices}
        responses |= {index: block.responses for index, block in found.items()}
        pool, ids = _pool([found[index] for index in indices])
        pairing = build_pairs(pool, context.settings.pairs, seed)
        candidates, unused = candidate_table(ids, pairing), unused_table(ids, pairing)
        paired_R = np.zeros(len(ids), dtype=np.bool_)
        paired_R[pairing.chosen_P] = paired_R[pairing.rejected_P] = True
        assert paired_R.sum() + unused.num_rows == len(ids), "a response is neither in a pair nor has a reason"
        reads = {
            name: digest for index in indices for feed in (sample, score) for name, digest in feed.digest(index).items()
        }
        writer.keep_shard(indices[0], candidates, CANDIDATES, reads)
        writer.keep_shard(indices[0], unused, reads=reads)
        outcomes[indices[0]] = pair_outcome(pool, pairing, [])
    context.require_end(score)
    for table in ("", CANDIDATES):
        writer.drop_shards(outcomes, table)
    whole = RoundResponses.joined(responses[index] for index in sorted(responses))
    forced = gates.check(context, round_number, whole, context.store.lazy_table(round_number, "sample"))
    outcome = joined([outcomes[index] for index in sorted(outcomes)])
    context.commit(writer, started, replace(outcome, gates_forced=forced))


def is_built_at_once(context: StageContext) -> bool:
    """Whether all pairs of a round are built at once, as one shard: a penalty that balances lengths is fitted to all of them."""
    return context.settings.pairs.length_penalty == "auto"


@dataclass(frozen=True, slots=True)
class _Block:
    """The responses of a shard, as columns and as texts, and their scores."""

    ids: pa.ChunkedArray
    responses: RoundResponses
    texts: pa.ChunkedArray
    scores: pa.Table


def _read(sample: ShardFeed, score: ShardFeed, index: int) -> _Block:
    table = sample.read(index, ["response_id", *COLUMNS])
    scores = score.read(index, ["response_id", "reward", "drop_reason"])
    assert scores["response_id"].equals(table["response_id"]), "rewards are not in the order of the responses"
    return _Block(table["response_id"], RoundResponses.of([table]), table["text"], scores)


def _pool(blocks: Sequence[_Block]) -> tuple[ResponsePool, pa.Array]:
    """Responses as the builders see them, row by row, and their ids."""
    responses = RoundResponses.joined(block.responses for block in blocks)
    scores = pa.concat_tables([block.scores for block in blocks])
    texts = pa.chunked_array([chunk for block in blocks for chunk in block.texts.chunks], pa.string())
    pool = ResponsePool(
        prompt_R=responses.prompt_R,
        response_index_R=responses.response_index_R,
        rewards_R=scores["reward"].to_numpy(),
        text_R=responses.text_R,
        empty_R=responses.empty_R,
        truncated_R=responses.truncated_R,
        drop_reason_R=DropReasons.of_column(scores["drop_reason"]),
        prompt_ids=responses.prompt_ids,
        texts=LazyItems(len(texts), lambda start, stop: texts.slice(start, stop - start).to_pylist()),
        num_tokens_R=responses.num_tokens_R,
    )
    return pool, pa.concat_arrays([chunk for block in blocks for chunk in block.ids.chunks])


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
    rows = np.flatnonzero(~is_kept(pairing.reason_R))
    reasons = pairing.reason_R.at(rows).to_arrow()
    return pa.table([ids.take(pa.array(rows)), reasons], schema=schema(Unused))


def pair_outcome(pool: ResponsePool, pairing: Pairing, gates_forced: list[ForcedGate]) -> PairOutcome:
    """The outcome of a pairing."""
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


def joined(outcomes: Sequence[PairOutcome]) -> PairOutcome:
    """One record of the pairings of all blocks. Pairs of one prompt are in one block."""
    if len(outcomes) == 1:
        return outcomes[0]
    num_pairs = sum(block.num_pairs for block in outcomes)
    # lengths are whole numbers, so that the mean does not depend on the blocks
    gaps = [round(block.length_gap_mean * block.num_pairs) for block in outcomes if block.length_gap_mean is not None]
    return replace(
        outcomes[0],
        num_pairs=num_pairs,
        num_prompts_paired=sum(block.num_prompts_paired for block in outcomes),
        unused_reasons=dict(sum((Counter(block.unused_reasons) for block in outcomes), Counter())),
        length_gap_mean=sum(gaps) / num_pairs if num_pairs else None,
    )
