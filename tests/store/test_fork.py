"""Stages taken over from another run: linked or copied, checked, and taken over once."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.store import durable
from selfplay.store.fork import Fork
from selfplay.store.layout import stage_name
from selfplay.store.run import Store
from tests.helpers.outcomes import outcome_of
from tests.helpers.sealing import rewrite


def commit(store: Store, stage: str, rows: list[int]) -> None:
    writer = store.writer(1, stage, "fingerprint", [])
    writer.write_shard(0, pa.table({"x": rows}))
    writer.write_shard(0, pa.table({"y": rows}), ".hidden")
    writer.commit(1, "2026-01-01T00:00:00Z", 1.0, outcome_of(stage))


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "source", {})
    commit(store, "prompts", [1, 2])
    commit(store, "sample", [3])
    return store


def fork(source: Store, *stages: str) -> Fork:
    digests = {stage_name(1, stage): source.digest_of(1, stage) for stage in stages}
    return Fork(source.run_id, "../source", digests)


def test_stages_are_linked_and_recorded(source: Store, tmp_path: Path) -> None:
    forked = fork(source, "prompts", "sample")
    store = Store.create(tmp_path / "run", {}, forked)
    assert store.rounds() == []
    assert store.inherit() == [(1, "prompts"), (1, "sample")]
    assert store.inherit() == []
    assert store.digest_of(1, "sample") == source.digest_of(1, "sample")
    assert store.table(1, "prompts")["x"].to_pylist() == [1, 2]
    assert store.table(1, "prompts", ".hidden")["y"].to_pylist() == [1, 2]
    part = store.layout.stage(1, "prompts") / "part-00000.parquet"
    assert part.stat().st_ino == (source.layout.stage(1, "prompts") / part.name).stat().st_ino
    store.require(1, "prompts")
    opened = Store.open(store.layout.root)
    assert opened.forked_from == forked
    document = json.loads((store.layout.root / "RUN.json").read_text())["forked_from"]
    assert document == {"run": source.run_id, "root": "../source", "stages": forked.stages, "changes": []}
    assert Store.open(source.layout.root).forked_from is None
    assert not list(store.layout.work.iterdir())


def test_nothing_is_taken_over_before_what_it_was_made_from() -> None:
    stages = ("001/pair", "000/prompts", "001/evaluate", "001/prompts", "001/train", "000/evaluate", "001/sample")
    keys = list(Fork("id", "../source", dict.fromkeys(stages, "digest")).keys())
    first_round = [(1, name) for name in ("prompts", "sample", "pair", "train", "evaluate")]
    assert keys == [(0, "prompts"), (0, "evaluate"), *first_round]


def test_where_linking_fails_files_are_copied(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(operation: str, path: Path, index: int) -> None:
        if operation == "link":
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(durable, "operations", durable.Operations(before=no_links))
    store = Store.create(tmp_path / "run", {}, fork(source, "prompts"))
    store.inherit()
    part = store.layout.stage(1, "prompts") / "part-00000.parquet"
    assert part.stat().st_nlink == 1
    assert part.read_bytes() == (source.layout.stage(1, "prompts") / part.name).read_bytes()
    store.require(1, "prompts")


def test_a_source_that_is_gone_or_another_is_said(source: Store, tmp_path: Path) -> None:
    wanted = fork(source, "prompts", "sample")
    away = source.layout.root.rename(tmp_path / "away")
    store = Store.create(tmp_path / "run", {}, wanted)
    with pytest.raises(SelfplayError, match=r"shares round 1 prompts of .*source, which does not have it"):
        store.inherit()
    away.rename(tmp_path / "source")
    path = tmp_path / "source/rounds/001/sample/.COMMIT.json"
    rewrite(path, lambda document: document.update(created="2026-01-02T00:00:00Z"))
    with pytest.raises(CorruptionError, match=r"another commit than the one that .*run was forked from"):
        store.inherit()
    assert store.is_committed(1, "prompts") and not store.is_committed(1, "sample")


def test_a_lineage_that_cannot_be_read_is_corruption(source: Store, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", {}, fork(source, "prompts"))
    path = store.layout.root / "RUN.json"
    rewrite(path, lambda document: document.update(forked_from={"run": "x"}))
    with pytest.raises(CorruptionError, match=r"RUN\.json is damaged"):
        Store.open(store.layout.root)
