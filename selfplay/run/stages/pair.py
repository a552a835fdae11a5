"""Stage *pair*: candidate pairs from the responses of each prompt, and one reason for every response that is in none.

The stage's table is `unused`. The candidates themselves lie hidden beside it (`.pairs/`): complete pairs, with log-probs and
ranks, are in *select*. Everything that can be known without log-probs is decided here. Nothing is too long for training: prompts
that leave no room for a response of `sampling.max_tokens` were dropped before anything was sampled.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from selfplay.core.outcomes import ForcedGate, PairOutcome
from selfplay.core.records import Unused, schema
from selfplay.core.stages import CANDIDATES
from selfplay.run.stages import gates
from selfplay.run.stages.context import StageContext, derive_seed
from selfplay.run.stages.responses import COLUMNS, RoundResponses, TextColumn
from selfplay.selection.pairing import Pairing, build_pairs
from selfplay.selection.reasons import DropReasons, is_kept
from selfplay.selection.responses import ResponsePool
from selfplay.store.lazy_table import LazyTable

# Responses that are paired at a time: some tens of megabytes.
BLOCK = 1 << 18


def run(context: StageContext, round_number: int) -> None:
    """Write the unused table and the candidate pairs of a round, a block of whole prompts at a time."""
    started = time.monotonic()
    sample = context.store.lazy_table(round_number, "sample")
    responses = RoundResponses.of(sample.read(part, COLUMNS) for part in sample.parts)
    forced = gates.check(context, round_number, responses, sample)
    writer = context.writer(round_number, "pair")
    seed = derive_seed(context.settings.seed, "pair", round_number)
    # the penalty that balances lengths is fitted to all pairs of the round
    is_whole = context.settings.pairs.length_penalty == "auto"
    outcomes = []
    for number, (first, last) in enumerate(_blocks(sample, sample.num_rows if is_whole else BLOCK)):
        pool = _pool(context, round_number, responses.rows(first, last), sample, first, last)
        pairing = build_pairs(pool, context.settings.pairs, seed)
        ids = sample.take(range(first, last), ["response_id"])["response_id"].combine_chunks()
        candidates, unused = candidate_table(ids, pairing), unused_table(ids, pairing)
        paired_R = np.zeros(len(ids), dtype=np.bool_)
        paired_R[pairing.chosen_P] = paired_R[pairing.rejected_P] = True
        assert paired_R.sum() + unused.num_rows == len(ids), "a response is neither in a pair nor has a reason"
        if number not in writer.shards(CANDIDATES):
            writer.write_shard(number, candidates, CANDIDATES)
        if number not in writer.shards():
            writer.write_shard(number, unused)
        outcomes.append(pair_outcome(pool, pairing, forced))
    context.commit(writer, started, joined(outcomes))


def _blocks(sample: LazyTable, num_rows: int) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each block: the fewest files with at least `num_rows` responses. A file holds
    whole prompts."""
    first = 0
    for part in sample.parts:
        last = part.first + part.num_rows
        if last - first >= num_rows or last == sample.num_rows:
            yield first, last
            first = last
            if last == sample.num_rows:
                return


def _pool(
    context: StageContext, round_number: int, responses: RoundResponses, sample: LazyTable, first: int, last: int
) -> ResponsePool:
    """The responses of a block as the builders see them, row by row."""
    scored = context.store.lazy_table(round_number, "score")
    table = scored.take(range(first, last), ["response_id", "reward", "drop_reason"])
    ids = sample.take(range(first, last), ["response_id"])["response_id"]
    assert table["response_id"].equals(ids), "rewards are not in the order of the responses"
    return ResponsePool(
        prompt_R=responses.prompt_R,
        response_index_R=responses.response_index_R,
        rewards_R=table["reward"].to_numpy(),
        text_R=responses.text_R,
        empty_R=responses.empty_R,
        truncated_R=responses.truncated_R,
        drop_reason_R=DropReasons.of_column(table["drop_reason"]),
        prompt_ids=responses.prompt_ids,
        texts=TextColumn(sample, first, last),
        num_tokens_R=responses.num_tokens_R,
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
    rows = np.flatnonzero(~is_kept(pairing.reason_R))
    reasons = pairing.reason_R.at(rows).to_arrow()
    return pa.table([ids.take(pa.array(rows)), reasons], schema=schema(Unused))


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


def joined(outcomes: Sequence[PairOutcome]) -> PairOutcome:
    """One record of the pairings of all blocks. Pairs of one prompt are in one block."""
    num_pairs = sum(block.num_pairs for block in outcomes)
    gaps = [block.length_gap_mean * block.num_pairs for block in outcomes if block.length_gap_mean is not None]
    if len(outcomes) == 1:
        return outcomes[0]
    return replace(
        outcomes[0],
        num_pairs=num_pairs,
        num_prompts_paired=sum(block.num_prompts_paired for block in outcomes),
        unused_reasons=dict(sum((Counter(block.unused_reasons) for block in outcomes), Counter())),
        length_gap_mean=sum(gaps) / num_pairs if num_pairs else None,
    )
