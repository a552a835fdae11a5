"""Where a run stands, in every state it can be in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.core.records import Response, to_table
from selfplay.inspect.documents.status import status_document
from selfplay.store.lock import RunLock
from tests.helpers.make_run import make_run

KEYS = {
    "schema_version", "state", "rounds_done", "rounds_planned", "round", "stage", "run", "run_id", "created",
    "shards_kept", "progress", "side_by_side", "overlap", "loading", "driver", "attempts", "problems", "next",
}  # fmt: skip


def test_complete(whole_run: Path) -> None:
    document = status_document(whole_run)
    assert set(document) == KEYS
    assert (document["state"], document["rounds_done"], document["rounds_planned"]) == ("complete", 2, 2)
    assert (document["round"], document["stage"]) == (None, None)
    assert list(document["attempts"][0]) == ["attempt", "started", "ended", "outcome", "message", "pid", "host"]
    assert "rounds=3" in document["next"]


@pytest.mark.parametrize(
    ("outcome", "state"), [("failed", "failed"), ("interrupted", "interrupted"), (None, "interrupted")]
)
def test_stopped_in_the_middle(tmp_path: Path, outcome: str | None, state: str) -> None:
    store = make_run(tmp_path / "run", stop=(2, "score"), outcome=outcome)
    document = status_document(store.layout.root)
    assert (document["state"], document["rounds_done"], document["round"], document["stage"]) == (state, 1, 2, "score")
    assert document["attempts"][-1]["outcome"] == outcome
    assert document["attempts"][-1]["message"] == (f"{outcome} on purpose" if outcome else None)
    assert "selfplay resume" in document["next"]


def test_running_while_the_lock_is_held(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "sample"), outcome=None)
    store.writer(1, "sample", "f" * 64, []).write_shard(0, to_table(Response, []))
    with RunLock(store.layout.lock):
        document = status_document(store.layout.root)
    assert (document["state"], document["round"], document["stage"], document["shards_kept"]) == (
        "running",
        1,
        "sample",
        1,
    )
    assert document["driver"]["pid"] > 0
    assert status_document(store.layout.root)["state"] == "interrupted"


def test_shards_behind_a_link_are_not_counted(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "sample"), outcome=None)
    store.writer(1, "sample", "f" * 64, []).write_shard(0, to_table(Response, []))
    assert status_document(store.layout.root)["shards_kept"] == 1
    work = store.layout.stage_work(1, "sample")
    work.rename(tmp_path / "outside")
    work.symlink_to(tmp_path / "outside")
    assert status_document(store.layout.root)["shards_kept"] == 0


def test_run_without_an_attempt(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(0, "prompts"), outcome=None)
    shutil.rmtree(store.layout.attempt(1))
    document = status_document(store.layout.root)
    assert (document["state"], document["round"], document["stage"], document["attempts"]) == (
        "interrupted",
        0,
        "prompts",
        [],
    )


@pytest.mark.parametrize("damage", ["commit", "file", "stage", "identity", "attempt"])
def test_corrupt_names_the_file(run_copy: Path, damage: str) -> None:
    target = {
        "commit": run_copy / "rounds/001/score/.COMMIT.json",
        "file": run_copy / "rounds/002/sample/part-00001.parquet",
        "stage": run_copy / "rounds/001/score",
        "identity": run_copy / "RUN.json",
        "attempt": run_copy / "attempts/0001/attempt.json",
    }[damage]
    if damage == "stage":
        shutil.rmtree(target)
    else:
        target.write_bytes(target.read_bytes()[:7])
    document = status_document(run_copy)
    assert set(document) == KEYS
    assert document["state"] == "corrupt"
    assert any(str(target) in problem["message"] for problem in document["problems"])
    assert document["next"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        status_document(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        status_document(tmp_path / "nowhere")
