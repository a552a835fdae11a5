"""Damage outside of the tables: links, unexpected files, and names that lead elsewhere. Each is reported, with exit
code 5, and no reader or writer follows it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.core.errors import CorruptionError
from selfplay.core.outcomes import SelectOutcome
from selfplay.core.stages import stage_named
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.fork import Fork
from selfplay.store.layout import stage_name
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from tests.helpers.make_run import make_run
from tests.helpers.sealing import rewrite

NEWEST = "rounds/002/evaluate/.COMMIT.json"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "run-v1"


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
    for command in (["gc", "--keep-policies", "2"], ["resume"]):
        result = CliRunner().invoke(app, [command[0], str(run_copy), *command[1:]])
        assert result.exit_code == 5, result.output
    assert (run_copy / place).is_symlink()
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.parametrize("place", ["rounds/001", "rounds/001/select", "rounds/001/select/part-00000.parquet"])
def test_readers_refuse_what_stands_behind_a_link(run_copy: Path, tmp_path: Path, place: str) -> None:
    link_away(run_copy / place, tmp_path / "elsewhere")
    store = Store.open(run_copy)
    for read in (store.commit_of, store.digest_of, store.table, store.require):
        with pytest.raises(CorruptionError):
            read(1, "select")
    with pytest.raises(CorruptionError):
        store.outcome(1, SelectOutcome)
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


@pytest.mark.parametrize(
    "place",
    [
        "rounds/003", "rounds/000/sample", "rounds/001/sample/x.parquet", "rounds/001/train/policy/pytorch_model.bin",
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_run_is_named(run_copy: Path, place: str) -> None:
    path = run_copy / place
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"x")
    (found,) = files(run_copy)
    assert place == found or place.startswith(f"{found}/")


def test_what_lies_beside_is_the_users(run_copy: Path) -> None:
    (run_copy / "notes").mkdir()
    for place in (
        "README.md",
        "report.html",
        "notes/mine.txt",
        "attempts/0001/events.jsonl",
        ".work/x",
        "rounds/.DS_Store",
        "rounds/notes.txt",
        "rounds/001/notes.txt",
        "rounds/001/sample/.DS_Store",
        "rounds/001/sample/.part-00009.json",
        "config/more.yaml",
    ):
        (run_copy / place).write_text("x")
    assert files(run_copy, deep=True) == set()


@pytest.mark.parametrize(
    "name",
    ["../../../RUN.json", "/etc/hostname", "./part-00000.parquet", "a//b", "a/../../b", "", ".", "a\0b", "a\\..\\b"],
)
def test_a_commit_that_names_a_file_elsewhere(run_copy: Path, name: str) -> None:
    place = "rounds/002/select/.COMMIT.json"
    rewrite(run_copy / place, lambda document: document["files"][0].update(path=name))
    assert place in files(run_copy)
    with pytest.raises(CorruptionError, match="names a file outside"):
        Store.open(run_copy).table(2, "select")


@pytest.mark.parametrize(
    "name",
    [
        "../../../x/select",
        "002/../../x",
        "x/select",
        "002/other",
        "2/select",
        "-01/select",
        "\u00b2\u00b2\u00b2/select",
    ],
)
def test_a_commit_or_a_lineage_that_names_a_stage_elsewhere(run_copy: Path, name: str) -> None:
    rewrite(run_copy / NEWEST, lambda document: document["inputs"].update({name: "0" * 64}))
    assert files(run_copy) == {NEWEST}
    lineage = {"run": "x", "root": "../x", "stages": {name: "0" * 64}}
    rewrite(run_copy / "RUN.json", lambda document: document.update(forked_from=lineage))
    assert files(run_copy) == {"RUN.json"}


@pytest.mark.parametrize(
    "change",
    [
        {"num_bytes": -1}, {"num_bytes": "9"}, {"rows": 1.5}, {"sha256": "x"}, {"sha256": None}, {"num_bytes": True},
    ],
)  # fmt: skip
def test_a_commit_with_values_that_none_has(run_copy: Path, change: dict[str, Any]) -> None:
    rewrite(run_copy / NEWEST, lambda document: document["files"][0].update(change))
    assert files(run_copy) == {NEWEST}


def test_table_names_lead_nowhere_else(whole_run: Path) -> None:
    store = Store.open(whole_run)
    for table in ("../prompts", "..", "/etc", "../../001/sample"):
        with pytest.raises(CorruptionError, match="has no table"):
            store.table(1, "sample", table)


@pytest.mark.parametrize(
    "place",
    [
        "RUN.json", "attempts/0001/attempt.json", "attempts/0001/end.json", "config/resolved.json", "run.lock",
        "rounds/001/sample", "rounds/001/sample/.COMMIT.json", "rounds/001/sample/.metrics.json",
        "rounds/001/sample/part-00000.parquet",
        "rounds/001/train/.REMOVED.json", "rounds/001/train/policy/config.json", ".work/003-sample/.part-00000.json",
        ".work/003-sample/.stage.json",
    ],
)  # fmt: skip
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(run_copy: Path, place: str) -> None:
    (run_copy / ".work/003-sample").mkdir()
    path = run_copy / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if place == ".work/003-sample/.stage.json":  # a mark of no shards is made again
        (path.parent / ".part-00000.json").write_text("{}")
    assert place in files(run_copy, deep=True)
    for command in (["status"], ["rounds"], ["gc", "--keep-policies", "2"]):
        result = CliRunner().invoke(app, [command[0], str(run_copy), *command[1:]])
        assert result.exit_code in (0, 5) and "unexpected" not in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("RUN.json", "RUN.json"), ("attempts/0001/attempt.json", "attempts/0001/attempt.json"),
        ("attempts/0001", "attempts/0001"), ("attempts", "attempts/0001"), ("rounds", "rounds"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_be_without(run_copy: Path, place: str, named: str) -> None:
    """The newest attempt holds the settings in force: without it older ones would be taken for them."""
    path = run_copy / place
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert named in files(run_copy)


def test_a_stage_of_another_run_is_reported(run_copy: Path) -> None:
    """The newest stage, so that nothing was made from it: only the settings in its commit differ."""
    rewrite(run_copy / NEWEST, lambda document: document.update(fingerprint="0" * 64))
    assert files(run_copy) == {NEWEST}
    (problem,) = verify_document(run_copy, deep=True)["problems"]
    assert problem["kind"] == "misplaced"
    assert problem["message"].endswith("was made from other settings or inputs than the other stages of attempt 1")


def test_an_attempt_that_was_killed_as_it_began_is_no_injury(run_copy: Path) -> None:
    (run_copy / "attempts/0002").mkdir()
    (run_copy / "attempts/0003").mkdir()
    (run_copy / "attempts/0003/.tmp-attempt.json-0123abcd").write_text("{")
    assert files(run_copy) == set()


@pytest.mark.parametrize("stage", ["pair", "select", "evaluate"])
def test_metrics_are_believed_by_their_digest_alone(run_copy: Path, stage: str) -> None:
    path = run_copy / f"rounds/001/{stage}/.metrics.json"
    data = path.read_bytes()
    digit = next(at for at in range(len(data)) if data[at : at + 1].isdigit())
    path.write_bytes(data[:digit] + bytes([data[digit] ^ 1]) + data[digit + 1 :])
    with pytest.raises(CorruptionError, match=r"metrics\.json is damaged: its sha256 differs"):
        Store.open(run_copy).outcome(1, stage_named(stage).outcome)
    assert CliRunner().invoke(app, ["rounds", str(run_copy)]).exit_code == 5


def test_two_names_of_one_round_are_not_two_rounds(run_copy: Path) -> None:
    for name in ("0002", "\u0660\u0660\u0662", "00000000002"):
        shutil.copytree(run_copy / "rounds/002", run_copy / "rounds" / name)
    assert Store.open(run_copy).rounds() == [0, 1, 2]


@pytest.mark.parametrize(
    "name", [".part-x.json", ".part-00000 (copy).json", ".part-1.json", ".part-\u0661\u0661\u0661\u0661\u0661.json"]
)
def test_a_name_that_no_shard_has_is_none(tmp_path: Path, name: str) -> None:
    store = make_run(tmp_path / "run", stop=(2, "sample"), outcome=None)
    writer = store.writer(2, "sample", "f" * 64, [])
    (writer.folder / name).write_text("{}")
    assert store.writer(2, "sample", "f" * 64, []).shards() == set()
    assert files(tmp_path / "run", deep=True) == set()


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"schema_version": Infinity}', '{"schema_version": true}', "[]", '{"schema_version": ' + "9" * 5000 + "}"],
)
def test_a_run_json_that_is_none(run_copy: Path, text: str) -> None:
    (run_copy / "RUN.json").write_text(text)
    assert files(run_copy) == {"RUN.json"}
    assert CliRunner().invoke(app, ["rounds", str(run_copy)]).exit_code == 5


@pytest.mark.parametrize(
    "name", ["attempts/0001/attempt.json", "rounds/001/sample/.COMMIT.json", "config/resolved.json"]
)
def test_json_that_is_nested_too_deeply(run_copy: Path, name: str) -> None:
    (run_copy / name).write_text(DEEP)
    assert name in files(run_copy)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": -1}, {"id": 3}, {"created": None}, {"config": ["resolved.json"]}, {"config": {"../x": "0" * 64}},
        {"config": {"resolved.json": 5}}, {"forked_from": "x"},
        {"forked_from": {"run": "x", "root": "y", "stages": {"000/prompts": 5}}},
        {"forked_from": {"run": "x", "root": "y", "stages": {}, "changes": [1]}},
    ],
)  # fmt: skip
def test_a_run_json_with_values_that_none_has(run_copy: Path, change: dict[str, Any]) -> None:
    rewrite(run_copy / "RUN.json", lambda document: document.update(change))
    assert files(run_copy) == {"RUN.json"}
    assert status_document(run_copy)["state"] == "corrupt"


@pytest.mark.parametrize("settings", [None, 3, {}, {"rounds": "many"}])
def test_an_attempt_without_settings(run_copy: Path, settings: Any) -> None:
    rewrite(run_copy / "attempts/0001/attempt.json", lambda document: document.update(config=settings))
    assert status_document(run_copy)["state"] == "corrupt"
    assert CliRunner().invoke(app, ["verify", str(run_copy), "--deep"]).exit_code == 5


def test_a_sealed_file_is_written_in_one_way(run_copy: Path) -> None:
    """A last line's end that is cut off, a key that stands twice, another encoding."""
    path = run_copy / NEWEST
    data = path.read_bytes()
    for other in (
        data[:-1],
        data.replace(b"{", b'{"round": 7,', 1),
        data.decode().encode("utf-16"),
        json.dumps(json.loads(data)).encode(),
    ):
        path.write_bytes(other)
        assert files(run_copy) == {NEWEST}


def test_scratch_that_a_copy_left_out_is_made_again(run_copy: Path) -> None:
    shutil.rmtree(run_copy / ".work")
    Store.open(run_copy).clean_work()
    assert (run_copy / ".work").is_dir()
