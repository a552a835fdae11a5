"""The responses in pairs that stage *logprobs* passes over, in shards: those of each shard of *sample* as soon as their pairs are
built, while later ones are still sampled. With accumulated data there are also those of the kept pairs of earlier rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.core.outcomes import PairOutcome, PromptsOutcome, SelectOutcome
from selfplay.core.protocols import LogprobItem
from selfplay.core.stages import CANDIDATES, REFERENCE
from selfplay.execution.sharding import LazyItems, cut_as_begun
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.engine_logps import given_by_engine, wants_engine_logps
from selfplay.run.stages.pair import is_built_at_once
from selfplay.run.stages.rows import SortedIds, candidate_responses, kept_responses, logprob_items, responses_of
from selfplay.selection.pair_rules import pairs_per_prompt
from selfplay.store.lazy_table import RowReader
from selfplay.store.writer import StageWriter

_COLUMNS = ["response_id", "prompt_id", "token_ids", "num_tokens", "sampler_logp", "policy_digest"]
_SIDES = ["chosen_response_id", "rejected_response_id"]


@dataclass(frozen=True, slots=True)
class PairedResponses:
    """The paired responses of one shard: ids, items of a forward pass, the log-probs that the engine gave of some of them (as
    LOGPS_SCHEMA), and the files that they were read from (see `store.writer.ShardSource`)."""

    ids: pa.Array
    items: Sequence[LogprobItem]
    given: pa.Table
    reads: Mapping[str, str]

    def items_without(self, others: pa.Array) -> Sequence[LogprobItem]:
        """The items of the responses that are not among `others`."""
        keeps = pc.invert(pc.is_in(self.ids, value_set=others)).to_numpy(zero_copy_only=False)
        if keeps.all():
            return self.items
        places = np.flatnonzero(keeps).tolist()

        def make(start: int, stop: int) -> list[LogprobItem]:
            made = list(self.items)
            return [made[place] for place in places[start:stop]]

        return LazyItems(len(places), make)


@dataclass(frozen=True, slots=True)
class PairedShards:
    """The shards of a round. `indices`, `shard` and `num_items` are as in `sharding.Shards`. `in_order` gives the indices of the
    shards that may have log-probs of the engine, in an order that does not depend on when they are there, and waits for each:
    those of this round first. It ends early where the stage before has stopped."""

    indices: Callable[[], Iterable[int | None]]
    shard: Callable[[int], PairedResponses]
    num_items: int
    in_order: Callable[[], Iterable[int]]


def paired_shards(context: StageContext, writer: StageWriter, round_number: int, policy: Policy) -> PairedShards:
    """The shards of stage *logprobs*. `policy` is the one whose log-probs are wanted."""
    if context.from_dataset:
        return _of_dataset(context, writer, round_number)
    sample, pair = context.feed(round_number, "sample"), context.feed(round_number, "pair")
    at_once = is_built_at_once(context)
    earlier = [
        (number, index)
        for number in context.data_rounds(round_number)
        if number != round_number
        for index in context.store.feed(number, "sample")
    ]
    feed_of = cache(lambda number: sample if number == round_number else context.store.feed(number, "sample"))
    kept_in = cache(lambda number: kept_responses(context, number))
    items_of = cache(lambda number: _items_of(context, number))

    def made_from(index: int) -> list[int]:
        """The shards that follow from a shard of *pair*."""
        return [len(earlier) + each for each in (sorted(sample) if at_once else [index])]

    def indices() -> Iterator[int | None]:
        yield from range(len(earlier))
        for index in pair.available():
            yield from [None] if index is None else made_from(index)

    def shard(index: int) -> PairedResponses:
        if index < len(earlier):
            number, of_sample = earlier[index]
            wanted, reads = kept_in(number), dict[str, str]()
        else:
            number, of_sample = round_number, index - len(earlier)
            of_pair = 0 if at_once else of_sample
            wanted = responses_of(pair.read(of_pair, _SIDES, CANDIDATES))
            reads = sample.digest(of_sample) | pair.digest(of_pair, CANDIDATES)
        rows = feed_of(number).read(of_sample, _COLUMNS)
        rows = rows.filter(pc.is_in(rows["response_id"], value_set=wanted))
        ids = rows["response_id"].combine_chunks()
        return PairedResponses(ids, items_of(number)(rows), given_by_engine(rows, policy), reads)

    def in_order() -> Iterator[int]:
        if wants_engine_logps(context, round_number):
            for index in takewhile(pair.wait_for, [0] if at_once else count()):
                yield from made_from(index)
        yield from range(len(earlier))

    return PairedShards(indices, shard, _num_expected(context, round_number), in_order)


def _items_of(context: StageContext, number: int) -> Callable[[pa.Table], LazyItems[LogprobItem]]:
    """Turns rows of *sample* of a round into items of a forward pass."""
    row_of = SortedIds(context.store.table(number, "prompts", columns=["prompt_id"])["prompt_id"])
    prompts = RowReader(context.store.lazy_table(number, "prompts"), ["prompt_token_ids"])

    def items(rows: pa.Table) -> LazyItems[LogprobItem]:
        prompt_row = row_of.rows(rows["prompt_id"])

        def make(start: int, stop: int) -> list[LogprobItem]:
            asked = prompts.take(prompt_row[start:stop])["prompt_token_ids"].to_pylist()
            here = rows.slice(start, stop - start)
            found = zip(here["response_id"].to_pylist(), asked, here["token_ids"].to_pylist(), strict=True)
            return [LogprobItem(*each) for each in found]

        return LazyItems(rows.num_rows, make)

    return items


def _num_expected(context: StageContext, round_number: int) -> int:
    """How many responses there are at most."""
    *earlier, _ = context.data_rounds(round_number)
    kept = sum(2 * context.store.outcome(number, SelectOutcome).summary.num_kept for number in earlier)
    each = context.settings.sampling.num_responses
    built = context.store.outcome_if_committed(round_number, PairOutcome)
    if built is not None:
        return kept + min(2 * built.num_pairs, each * built.num_prompts_paired)
    asked = context.store.outcome(round_number, PromptsOutcome).num_admitted
    return kept + asked * min(each, 2 * pairs_per_prompt(context.settings.pairs, each))


def _of_dataset(context: StageContext, writer: StageWriter, round_number: int) -> PairedShards:
    """Those of a dataset, which was imported in much larger shards, and which no engine sampled."""
    paired = responses_of(candidate_responses(context, round_number))
    ids, items = logprob_items(context, [(round_number, paired)])
    shards = cut_as_begun(writer, ("", REFERENCE), items, context.settings.sampling.shard_size)
    starts = np.cumsum([0, *map(len, shards)]).tolist()

    def shard(index: int) -> PairedResponses:
        own = ids.slice(starts[index], len(shards[index]))
        return PairedResponses(own, shards[index], LOGPS_SCHEMA.empty_table(), {})

    return PairedShards(lambda: range(len(shards)), shard, len(items), lambda: range(len(shards)))
