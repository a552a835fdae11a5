"""Of a round without log-probs of the engine the check reads a few shards, not all."""

from __future__ import annotations

import pyarrow as pa

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.run.stages.logprob_source import NUM_CHECKED, NUM_LOOKED_AT, _first
from selfplay.run.stages.paired_shards import PairedResponses, PairedShards


def shards(given_in_each: int, read: list[int]) -> PairedShards:
    """A thousand shards of 128 responses."""

    def shard(index: int) -> PairedResponses:
        read.append(index)
        ids = pa.array([f"{index}-{number}" for number in range(128)])
        given = [ids.slice(0, given_in_each), pa.array([0.0] * given_in_each), pa.array([1] * given_in_each)]
        return PairedResponses(ids, [], pa.table(given, schema=LOGPS_SCHEMA), {})

    return PairedShards(lambda: range(1000), shard, 128_000, lambda: range(1000))


def test_shards_are_read_until_there_are_enough_to_check() -> None:
    read: list[int] = []
    assert sum(each.given.num_rows for each in _first(shards(20, read))) >= NUM_CHECKED
    assert read == [0, 1, 2, 3]


def test_not_all_are_read_where_the_engine_gave_none() -> None:
    read: list[int] = []
    assert len(_first(shards(0, read))) == len(read) == NUM_LOOKED_AT // 128
