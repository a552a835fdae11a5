"""Injuries outside of the tables: links, strays, and names that lead elsewhere. Each is named, with exit code 5, and no reader or
writer follows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from make_run import make_run
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.errors import CorruptionError
from selfplay.inspect.status import status_document
from selfplay.inspect.verify import verify_document
from selfplay.store.fork import Fork, stage_name
from selfplay.store.lock import RunLock
from selfplay.store.run import Store


def files(root: Path, *, deep: bool = False) -> set[str]:
    """Files that `verify` names, relative to the run; the command ends with 5 exactly where there are any."""
    document = verify_document(root, deep=deep)
    result = CliRunner().invoke(app, ["verify", str(root), *(["--deep"] if deep else [])])
    assert result.exit_code == (5 if document["problems"] else 0), result.output
    assert all(problem["message"] and problem["hint"] for problem in document["problems"])
    for problem in document["problems"]:
        assert problem["file"] in result.stdout
    return {os.path.relpath(problem["file"], root) for problem in document["problems"]}


def link_away(path: Path, away: Path) -> dict[Path, bytes]:
    """Put a link where a file or folder stands, and that elsewhere; returns the content of what is elsewhere."""
    path.rename(away)
    path.symlink_to(away)
    found = [away] if away.is_file() else sorted(away.rglob("*"))
    return {file: file.read_bytes() for file in found if file.is_file()}


@pytest.mark.parametrize(
    "place",
    [
        "RUN.json", "config", "config/resolved.json", "attempts", "attempts/0001", "attempts/0001/attempt.json", "rounds",
        "attempts/0001/end.json", "rounds/001", "rounds/001/sample", "rounds/001/sample/part-00000.parquet",
        "rounds/001/pair/.pairs", "rounds/001/train/policy", "rounds/001/select/.COMMIT.json",
        "rounds/001/select/.metrics.json", ".work", "run.lock",
    ],
)  # fmt: skip
def test_a_link_in_the_place_of_a_file_or_folder_is_named_and_not_followed(
    run_copy: Path, tmp_path: Path, place: str
) -> None:
    with RunLock(run_copy / "run.lock"):
        pass
    before = link_away(run_copy / place, tmp_path / "elsewhere")
    document = verify_document(run_copy, deep=False)
    linked = [problem for problem in document["problems"] if problem["file"] == str(run_copy / place)]
    assert any("is a symbolic link" in problem["message"] and problem["kind"] == "misplaced" for problem in linked)
    assert place in files(run_copy, deep=True)
    for command in (["gc", "--keep-checkpoints", "2"], ["resume"]):
        result = CliRunner().invoke(app, [command[0], str(run_copy), *command[1:]])
        assert result.exit_code == 5, result.output
    assert (run_copy / place).is_symlink()
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.parametrize("place", ["rounds/001", "rounds/001/select", "rounds/001/select/part-00000.parquet"])
def test_readers_refuse_what_stands_behind_a_link(run_copy: Path, tmp_path: Path, place: str) -> None:
    link_away(run_copy / place, tmp_path / "elsewhere")
    store = Store.open(run_copy)
    for read in (store.commit_of, store.digest_of, store.metrics, store.table, store.require):
        with pytest.raises(CorruptionError):
            read(1, "select")
    assert status_document(run_copy)["state"] == "corrupt"
    assert CliRunner().invoke(app, ["show", str(run_copy), "1"]).exit_code == 5


def test_a_fork_takes_nothing_from_behind_a_link(run_copy: Path, tmp_path: Path) -> None:
    source = Store.open(run_copy)
    fork = Fork(source.run_id, "../run", {stage_name(0, "prompts"): source.digest_of(0, "prompts")})
    link_away(run_copy / "rounds/000", tmp_path / "elsewhere")
    new = Store.create(tmp_path / "fork", {}, fork)
    with pytest.raises(CorruptionError, match="000 is a symbolic link"):
        new.inherit()


def test_what_was_planted_in_scratch_is_not_written_through(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(2, "sample"), outcome=None)
    away = tmp_path / "elsewhere"
    away.mkdir()
    (away / "precious").write_text("mine")
    for place in ("002-sample", "002-trainer"):
        (store.layout.work / place).symlink_to(away)
    with pytest.raises(CorruptionError, match="002-sample is a symbolic link"):
        store.writer(2, "sample", "f", [])
    with pytest.raises(CorruptionError, match="002-trainer is a symbolic link"):
        store.scratch(2)
    with pytest.raises(CorruptionError, match="is a symbolic link"):
        store.clean_work()
    (store.layout.work / "002-sample").unlink()
    writer = store.writer(2, "sample", "f", [])
    (writer.folder / ".mixed").symlink_to(away)
    with pytest.raises(CorruptionError, match=r"\.mixed is a symbolic link"):
        store.writer(2, "sample", "f", [])
    (store.layout.work / "002-trainer").unlink()
    output = store.scratch(2) / "output"
    (output / "policy").mkdir(parents=True)
    (output / "policy/model.safetensors").symlink_to(away / "precious")
    (writer.folder / ".mixed").unlink()
    with pytest.raises(CorruptionError, match=r"model\.safetensors is a symbolic link"):
        writer.adopt_folder(output / "policy", "policy")
    assert [path.name for path in away.iterdir()] == ["precious"]
    assert (away / "precious").read_text() == "mine"


def test_a_start_does_not_go_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptionError, match="config is a symbolic link"):
        Store.create(tmp_path / "run", {"given.yaml": b""})
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_lock_that_is_a_link_empties_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CorruptionError, match="is a symbolic link"), RunLock(tmp_path / "run.lock"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_links_that_are_the_users_and_hard_links_are_let_be(run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "latest").symlink_to(run_copy / "rounds/002")
    (run_copy / "attempts/0001/latest-run").symlink_to(tmp_path)
    os.link(run_copy / "rounds/001/select/part-00000.parquet", tmp_path / "shared.parquet")
    assert files(run_copy, deep=True) == set()
    (tmp_path / "way").symlink_to(run_copy)
    assert files(tmp_path / "way", deep=True) == set()
    Store.open(run_copy).clean_work()
