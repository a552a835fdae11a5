"""Shards in `.work/`: what a crash leaves, what is adopted, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.store import durable
from selfplay.store.commits import read_commit
from selfplay.store.layout import Layout
from selfplay.store.manifest import FileEntry
from selfplay.store.writer import StageInputs, StageWriter
from tests.helpers.outcomes import outcome_of


def rows(index: int, size: int = 3) -> pa.Table:
    return pa.table({"x": [index * 10 + i for i in range(size)]})


def open_writer(root: Path, fingerprint: str = "f", **commits: str) -> StageWriter:
    return StageWriter(Layout(root), 1, "sample", StageInputs(fingerprint, commits))


def test_a_stage_is_nowhere_until_it_is_committed_and_whole_then(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = open_writer(tmp_path)
    for index in (1, 0):
        first.write_shard(index, rows(index))
    assert not layout.stage(1, "sample").exists()
    assert first.shards() == {0, 1}
    commit = first.commit(1, "2026-01-01T00:00:00Z", 1.5, outcome_of("sample"))
    folder = layout.stage(1, "sample")
    assert read_commit(folder)[0] == commit
    assert [(entry.path, entry.rows) for entry in commit.files] == [
        (".metrics.json", None),
        ("part-00000.parquet", 3),
        ("part-00001.parquet", 3),
    ]
    assert not layout.stage_work(1, "sample").exists()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


def test_shards_of_an_earlier_attempt_are_adopted(tmp_path: Path) -> None:
    first = open_writer(tmp_path, prompts="d1")
    first.write_shard(2, rows(2))
    first.write_shard(0, rows(0), ".sampled")
    second = open_writer(tmp_path, prompts="d1")
    assert second.adopted == 2
    assert (second.shards(), second.shards(".sampled"), second.shards(".greedy")) == ({2}, {0}, set())
    assert second.read_shard(2).equals(rows(2))
    assert second.read_shard(0, ".sampled").equals(rows(0))
    assert {entry.path for entry in second.commit(2, "now", 0.0, outcome_of("sample")).files} == {
        ".metrics.json",
        ".sampled/part-00000.parquet",
        "part-00002.parquet",
    }


@pytest.mark.parametrize("other", [{"fingerprint": "g"}, {"prompts": "d2"}, {"select": "d1"}])
def test_a_work_folder_of_other_inputs_is_not_adopted(tmp_path: Path, other: dict[str, str]) -> None:
    open_writer(tmp_path, prompts="d1").write_shard(0, rows(0))
    second = open_writer(tmp_path, **{"prompts": "d1", **other})
    assert second.adopted == 0
    assert second.shards() == set()
    assert [*second.folder.glob("part-*")] == []


def test_what_is_committed_is_never_overwritten(tmp_path: Path) -> None:
    first = open_writer(tmp_path)
    first.write_shard(0, rows(0))
    first.commit(1, "now", 0.0, outcome_of("sample"))
    before = read_commit(Layout(tmp_path).stage(1, "sample"))
    second = open_writer(tmp_path)
    second.write_shard(0, rows(5))
    with pytest.raises(SelfplayError, match="exists already"):
        second.commit(2, "now", 0.0, outcome_of("sample"))
    assert read_commit(Layout(tmp_path).stage(1, "sample")) == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("part-00000.parquet", b"PAR1 something else", "has 19 bytes"),
        ("part-00000.parquet", None, "missing"),
        (".part-00000.json", b"{", r"\.part-00000\.json is damaged"),
        (".part-00000.json", b'["rows"]', r"\.part-00000\.json is damaged"),
        (".part-00000.json", b'{"rows": 3}', r"\.part-00000\.json is damaged"),
    ],
)
def test_a_damaged_shard_in_work_is_corruption_not_missing(tmp_path: Path, name: str, data: Any, message: str) -> None:
    first = open_writer(tmp_path)
    first.write_shard(0, rows(0))
    path = first.folder / name
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(CorruptionError, match=message) as error:
        open_writer(tmp_path)
    assert ".part-00000.json" in error.value.hint
    assert "that shard will be made again" in error.value.hint


def test_a_policy_is_sealed_and_adopted_again_after_a_crash(tmp_path: Path) -> None:
    def train(content: str) -> Path:
        (tmp_path / "out/policy").mkdir(parents=True)
        (tmp_path / "out/policy/model.safetensors").write_text(content)
        return tmp_path / "out/policy"

    open_writer(tmp_path).adopt_folder(train("first"), "policy")
    assert not (tmp_path / "out/policy").exists()
    # what a crash in the middle of a replacement leaves must not be published
    second = open_writer(tmp_path)
    (second.folder / "policy").rename(second.folder / ".trash-policy")
    second.adopt_folder(train("second"), "policy")
    commit = second.commit(2, "now", 0.0, outcome_of("sample"))
    folder = Layout(tmp_path).stage(1, "sample")
    assert [entry.path for entry in commit.files] == [".metrics.json", "policy/model.safetensors"]
    assert (folder / "policy/model.safetensors").read_text() == "second"
    assert not (folder / ".trash-policy").exists()
    assert commit.files[1].rows is None
    assert commit.files[1].sha256 == durable.sha256_bytes(b"second")


def test_a_folder_that_its_writer_has_hashed_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sha256_file", lambda path: pytest.fail("hashed again"))

    def written(num_bytes: int) -> list[FileEntry]:
        (tmp_path / "out/policy").mkdir(parents=True)
        (tmp_path / "out/policy/model.safetensors").write_text("weights")
        return [FileEntry("policy/model.safetensors", num_bytes, durable.sha256_bytes(b"weights"))]

    entries = written(7)
    assert open_writer(tmp_path).adopt_folder(tmp_path / "out/policy", "policy", entries) == entries
    entries = written(8)
    with pytest.raises(CorruptionError, match="has 7 bytes, its manifest says 8"):
        open_writer(tmp_path).adopt_folder(tmp_path / "out/policy", "policy", entries)


def test_what_no_entry_names_is_not_published(tmp_path: Path) -> None:
    first = open_writer(tmp_path)
    for index, table in ((0, ""), (1, ""), (0, ".sampled")):
        first.write_shard(index, rows(index), table)
    # a shard that a crash left without its sidecar, a half-written file, and what somebody put there
    (first.folder / "part-00007.parquet").write_bytes(b"whole, but not kept")
    (first.folder / ".sampled/.tmp-part-00001.parquet-0123abcd").write_bytes(b"ha")
    (first.folder / "notes.txt").write_text("mine")
    second = open_writer(tmp_path)
    assert second.shards() == {0, 1}
    second.commit(1, "now", 0.0, outcome_of("sample"))
    folder = Layout(tmp_path).stage(1, "sample")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *(".COMMIT.json", ".metrics.json", ".stage.json", "part-00000.parquet", "part-00001.parquet"),
        *(".part-00000.json", ".part-00001.json", ".sampled/.part-00000.json", ".sampled/part-00000.parquet"),
    }
