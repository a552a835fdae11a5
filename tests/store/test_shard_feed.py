"""The shards of a stage for a stage that reads them one by one, while they are made and when they are committed."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.store.commits import read_commit
from selfplay.store.layout import Layout
from selfplay.store.shard_feed import ShardFeed, check_reads
from selfplay.store.writer import StageInputs, StageWriter
from tests.helpers.outcomes import outcome_of


def rows(index: int) -> pa.Table:
    return pa.table({"x": [index * 10 + i for i in range(3)], "y": ["a", "b", "c"]})


def open_feed(root: Path) -> tuple[ShardFeed, StageWriter]:
    feed = ShardFeed(1, "sample")
    writer = StageWriter(Layout(root), 1, "sample", StageInputs("f", {}), on_shard=feed.add)
    feed.begin(writer)
    return feed, writer


def commit(feed: ShardFeed, writer: StageWriter) -> None:
    writer.commit(1, "now", 0.0, outcome_of("sample"))
    feed.commit(*read_commit(writer.folder))


def test_shards_are_read_while_later_ones_are_made(tmp_path: Path) -> None:
    feed, writer = open_feed(tmp_path)
    available = feed.available()
    assert next(available) is None
    writer.write_shard(2, rows(2))
    writer.write_shard(7, rows(7), ".hidden")
    assert (next(available), next(available)) == (2, None)
    assert feed.read(2, ["x"])["x"].to_pylist() == [20, 21, 22]
    assert feed.wait()
    writer.write_shard(0, rows(0))
    before = feed.digest(2)
    commit(feed, writer)
    # what was read while it was made is read from the committed folder now
    assert feed.read(2).equals(rows(2)) and feed.digest(2) == before
    assert [*available] == [0] and [*feed] == [2, 0]
    committed = ShardFeed.of(Layout(tmp_path).stage(1, "sample"), *read_commit(writer.folder))
    assert [*committed] == [*committed.available()] == [0, 2]
    assert committed.digest(2) == before and [*before] == ["001/sample/part-00002.parquet"]
    assert committed.read(2, ["y"])["y"].to_pylist() == ["a", "b", "c"]
    assert committed.read(7, table=".hidden").equals(rows(7))
    assert [*committed.digest(7, ".hidden")] == ["001/sample/.hidden/part-00007.parquet"]


def test_who_waits_hears_of_the_end(tmp_path: Path) -> None:
    feed, writer = open_feed(tmp_path)
    heard: list[object] = []
    waiting = threading.Thread(
        target=lambda: heard.append(
            (feed.wait_for(0), [*feed], feed.wait_committed(), feed.wait(), feed.wait_for(1)),
        )
    )
    waiting.start()
    writer.write_shard(0, rows(0))
    feed.end()
    waiting.join(30)
    assert heard == [(True, [0], None, True, False)]
    stopped = ShardFeed(1, "sample")
    stopped.end()
    assert not stopped.wait() and [*stopped] == []


def test_shards_are_compared_with_the_commit_that_they_were_made_from(tmp_path: Path) -> None:
    feed, writer = open_feed(tmp_path)
    for index in (0, 1):
        writer.write_shard(index, rows(index))
    score = StageWriter(Layout(tmp_path), 1, "score", StageInputs("f", {}))
    score.write_shard(0, rows(5), reads=feed.digest(0))
    again = StageWriter(Layout(tmp_path), 1, "score", StageInputs("f", {}))
    assert again.shards() == {0} and again.reads(0) == feed.digest(0)
    commit(feed, writer)
    commits = {"001/sample": read_commit(writer.folder)[0]}
    check_reads(again, commits)
    again.write_shard(1, rows(6), reads={"001/sample/part-00001.parquet": "0" * 64})
    with pytest.raises(CorruptionError, match=r"part-00001.parquet was made from another 001/sample/part-00001"):
        check_reads(again, commits)
