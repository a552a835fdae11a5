"""Shards, and items that are made when they are read."""

from __future__ import annotations

from selfplay.execution.sharding import LazyItems, cut


def test_items_are_made_as_they_are_read() -> None:
    made: list[tuple[int, int]] = []

    def make(start: int, stop: int) -> list[int]:
        made.append((start, stop))
        return list(range(100 + start, 100 + stop))

    items = LazyItems(10, make)
    shards = cut(items, 4)
    assert [len(shard) for shard in shards] == [4, 4, 2] and made == []
    assert [list(shard) for shard in shards] == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109]]
    assert made == [(0, 4), (4, 8), (8, 10)]
    # a shard that is bisected
    assert list(shards[1][2:]) == [106, 107] and list(shards[1][:2][1:]) == [105]
    assert (items[0], items[-1], shards[1][1], shards[1][-1]) == (100, 109, 105, 107)
    assert list(items[10:]) == []


def test_no_items_are_one_empty_shard() -> None:
    shards = cut(LazyItems(0, lambda start, stop: [1]), 4)
    assert [list(shard) for shard in shards] == [[]]
