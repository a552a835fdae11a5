"""Every injury is found and named, alone and together with others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.core.records import Response, Unused, to_table
from selfplay.inspect.verify import verify
from selfplay.inspect.verify.verify import verify_document
from selfplay.selection.pairing import PairRules
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from tests.helpers.make_run import Maker, make_run
from tests.helpers.sealing import rewrite


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def kinds(document: dict[str, Any], name: str = "") -> set[str]:
    return {problem["kind"] for problem in document["problems"] if name in problem["file"]}


@pytest.mark.parametrize("deep", [False, True])
def test_sound_run(whole_run: Path, deep: bool) -> None:
    document = verify_document(whole_run, deep=deep)
    assert list(document) == [
        "schema_version", "run", "deep", "ok", "num_commits", "num_files", "num_bytes", "work_checked", "problems",
    ]  # fmt: skip
    assert document["ok"], document["problems"]
    assert document["num_commits"] == 18


PART = "rounds/001/sample/part-00000.parquet"


@pytest.mark.parametrize(
    ("file", "injure", "kind"),
    [
        (PART, lambda path: path.write_bytes(path.read_bytes()[:-9]), "size"),
        (PART, Path.unlink, "missing"),
        ("rounds/001/select/part-00007.parquet", lambda path: path.write_bytes(b"x"), "extra"),
        ("rounds/001/train/policy/pickle.bin", lambda path: path.write_bytes(b"x"), "extra"),
        ("rounds/001/select/link.parquet", lambda path: path.symlink_to("/etc/passwd"), "misplaced"),
        ("rounds/002/score/.COMMIT.json", flip, "chain"),
        ("rounds/002/score/.COMMIT.json", lambda path: path.write_text("{"), "damaged"),
        ("rounds/002/score/.COMMIT.json", Path.unlink, "damaged"),
        ("rounds/001/score", shutil.rmtree, "missing"),
        ("config/pins.json", Path.unlink, "missing"),
        ("attempts/0001/attempt.json", lambda path: path.write_text("{"), "damaged"),
        ("RUN.json", lambda path: path.write_text("{"), "damaged"),
    ],
)
def test_shape_finds(run_copy: Path, file: str, injure: Callable[[Path], Any], kind: str) -> None:
    path = run_copy / file
    if file.endswith("score/.COMMIT.json") and injure is flip:
        # a commit that reads well, but is not the one that later stages were made from
        rewrite(path, lambda document: document.update(seconds=99.0))
    else:
        injure(path)
    document = verify_document(run_copy, deep=False)
    assert not document["ok"]
    assert kind in kinds(document)
    assert all(problem["hint"] and problem["message"] for problem in document["problems"])


@pytest.mark.parametrize("file", [PART, "rounds/002/train/policy/model.safetensors", "rounds/001/select/.metrics.json"])
def test_flipped_bit_is_found_by_digest_only(run_copy: Path, file: str) -> None:
    flip(run_copy / file)
    document = verify_document(run_copy, deep=True)
    assert kinds(document, file) == {"digest"}
    assert {problem["file"] for problem in document["problems"]} == {str(run_copy / file)}


DAMAGE: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "a flipped bit": lambda data, other: bytes([data[0] ^ 1]) + data[1:],
    "a flipped bit at the end": lambda data, other: data[:-1] + bytes([data[-1] ^ 128]),
    "truncated": lambda data, other: data[: len(data) // 2],
    "content of another file": lambda data, other: other,
    "deleted": lambda data, other: None,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_every_file_is_named_and_nothing_is_made_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every file that a reader trusts, one by one: of commits, kept shards with their marks, settings, attempts, RUN.json."""
    monkeypatch.setattr(verify, "check_rows", lambda store, sound: [])
    store = make_run(tmp_path / "run", rounds=1, stop=(1, "evaluate"))
    root = store.layout.root
    store.writer(1, "evaluate", "f" * 64, []).write_shard(0, to_table(Response, []))
    # committed stages keep the marks of their shards, and nobody reads those
    marks = {*root.glob("rounds/*/*/**/.part-*.json"), *root.glob("rounds/*/*/.stage.json")}
    trusted = sorted({path for path in root.rglob("*") if path.is_file()} - marks)
    assert len(trusted) > 40
    for path, another in zip(trusted, [*trusted[1:], trusted[0]], strict=True):
        if kind == "deleted" and (path.name == "end.json" or path.name.startswith(".part-")):
            continue  # as a kill leaves it
        before = path.read_bytes()
        damaged = DAMAGE[kind](before, another.read_bytes())
        if damaged == before:
            continue
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        # either a shard or its sidecar may be the damaged one
        named = {problem["file"] for problem in verify_document(root, deep=True)["problems"]}
        assert named & {str(path), str(path).replace("/.part-", "/part-").replace("00000.json", "00000.parquet")}, path
        if path.is_relative_to(root / "rounds"):
            number, stage = path.relative_to(root / "rounds").parts[:2]
            with pytest.raises(CorruptionError):
                Store.open(root).writer(9, "sample", "later", [(int(number), stage)])
        path.write_bytes(before)
    assert verify_document(root, deep=True)["ok"]


def test_files_of_two_stages_swapped(run_copy: Path) -> None:
    one, two = (run_copy / f"rounds/00{number}/select/part-00000.parquet" for number in (1, 2))
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    document = verify_document(run_copy, deep=True)
    assert {problem["file"] for problem in document["problems"]} == {str(one), str(two)}


def test_stage_folders_swapped(run_copy: Path) -> None:
    one, two, aside = run_copy / "rounds/001/score", run_copy / "rounds/002/score", run_copy / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert "misplaced" in kinds(verify_document(run_copy, deep=False), "score")


def test_stage_folder_that_is_a_link(run_copy: Path, tmp_path: Path) -> None:
    folder = run_copy / "rounds/001/score"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert kinds(verify_document(run_copy, deep=True), "001/score") == {"misplaced"}


def test_all_injuries_are_reported(run_copy: Path) -> None:
    flip(run_copy / PART)
    (run_copy / "rounds/002/select/part-00000.parquet").unlink()
    (run_copy / "rounds/000/evaluate/stray.txt").write_text("x")
    document = verify_document(run_copy, deep=True)
    assert kinds(document) == {"digest", "missing", "extra"}
    assert len(document["problems"]) == 3


def test_shards_kept_of_a_stage_under_way(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "sample"), outcome=None)
    writer = store.writer(1, "sample", "f" * 64, [])
    for index in range(4):
        writer.write_shard(index, to_table(Response, []))
    root = store.layout.root
    assert verify_document(root, deep=True)["ok"]
    flip(writer.folder / "part-00000.parquet")
    (writer.folder / "part-00001.parquet").unlink()
    (writer.folder / ".part-00002.json").write_text("{")
    assert len(verify_document(root, deep=False)["problems"]) == 2
    document = verify_document(root, deep=True)
    assert kinds(document) == {"shard"}
    assert len(document["problems"]) == 3
    with RunLock(store.layout.lock):
        locked = verify_document(root, deep=True)
    assert locked["ok"]
    assert not locked["work_checked"]


class Doubled(Maker):
    """A response stands twice."""

    def _responses(self, number: int) -> list[Any]:
        rows = super()._responses(number)
        return [*rows, rows[-1]] if self.fields.get("double") else rows  # type: ignore[call-overload]

    def sample(self, number: int) -> None:
        self.fields["double"] = {"on": True}  # type: ignore[index]
        super().sample(number)
        del self.fields["double"]  # type: ignore[arg-type]


class Forgotten(Maker):
    """The last unused response has no place."""

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage == "pair":
            rows = [(name, [table.slice(0, table.num_rows - 1) if not name else table]) for name, (table,) in rows]
        super()._commit(number, stage, reads, rows, metrics)


class Unexplained(Maker):
    """Rewards without a number or a reason, and log-probs that are NaN."""

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage in ("score", "logprobs"):
            ((name, (table,)),) = rows
            column = "drop_reason" if stage == "score" else "policy_logp"
            empty = (
                pa.nulls(table.num_rows, pa.string()) if stage == "score" else pa.array([float("nan")] * table.num_rows)
            )
            position = table.schema.get_field_index(column)
            rows = [(name, [table.set_column(position, column, empty)])]
        super()._commit(number, stage, reads, rows, metrics)


class Mistyped(Maker):
    """A table of another schema."""

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage == "pair":
            rows = [rows[0], ("", [to_table(Unused, []).rename_columns(["response_id", "why"])])]
        super()._commit(number, stage, reads, rows, metrics)


class Changed(Maker):
    """Columns of the pairs table are not what pairing made."""

    columns = ("reward_chosen", "reward_rejected")

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage == "select":
            ((name, (table,)),) = rows
            one, other = (table.schema.get_field_index(column) for column in self.columns)
            first, second = table.column(one), table.column(other)
            table = table.set_column(one, self.columns[0], second).set_column(other, self.columns[1], first)
            rows = [(name, [table])]
        super()._commit(number, stage, reads, rows, metrics)


class Turned(Changed):
    """Chosen and rejected, rewards and all, are the wrong way round."""

    columns = ("chosen_response_id", "rejected_response_id")


class Crossed(Maker):
    """The rejected responses are those of the next pair, of another prompt."""

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage == "select":
            ((name, (table,)),) = rows
            position = table.schema.get_field_index("rejected_response_id")
            ids = table["rejected_response_id"].to_pylist()
            rows = [(name, [table.set_column(position, "rejected_response_id", [[*ids[1:], ids[0]]])])]
        super()._commit(number, stage, reads, rows, metrics)


class Shortened(Maker):
    """A candidate is in no row of the pairs table."""

    def _commit(self, number: int, stage: str, reads: Any, rows: Any, metrics: Any) -> None:
        if stage == "select":
            ((name, (table,)),) = rows
            rows = [(name, [table.slice(1)])]
            metrics = {**metrics, "num_pairs": table.num_rows - 1, "num_kept": sum(table["kept"].to_pylist()[1:])}
        super()._commit(number, stage, reads, rows, metrics)


def messages(root: Path) -> list[str]:
    return [problem["message"] for problem in verify_document(root, deep=True)["problems"]]


PENALTY = PairRules(length_penalty="auto")
ALL = PairRules(build="all", max_per_prompt=2)


@pytest.mark.parametrize("rules", [PENALTY, ALL, PairRules(build="random_pair", min_gap=0.1)])
def test_runs_of_every_kind_of_pairs_are_sound(tmp_path: Path, rules: PairRules) -> None:
    assert messages(make_run(tmp_path / "run", rounds=1, rules=rules).layout.root) == []


def test_more_pairs_of_a_prompt_than_the_configuration_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.helpers.make_run.Maker", lambda store, rules: Maker(store, rules=PairRules(build="all")))
    found = messages(make_run(tmp_path / "run", rounds=1, rules=ALL).layout.root)
    assert len(found) == 1
    assert re.search(r"round 1 select: \d+ prompts with more than 2 pairs", found[0])


def test_rewards_of_pairs_are_less_the_penalty(tmp_path: Path) -> None:
    # the penalty that was recorded is another
    changes = {(1, "pair"): {"length_penalty": 0.25}}
    found = messages(make_run(tmp_path / "run", rounds=1, rules=PENALTY, fields=changes).layout.root)
    assert [message.partition(": ")[2] for message in found] == [
        f"11 pairs whose reward_{side} is not the response's reward less 0.25 a token"
        for side in ("chosen", "rejected")
    ]


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        (Doubled, "response id 'p1-010-r001-3' appears more than once"),
        (Forgotten, "1 responses that are not among the pairs and unused together"),
        (Unexplained, "1 responses with neither a finite reward nor a reason"),
        (Unexplained, "22 log-probs that are not finite"),
        (Mistyped, "columns missing or of another type: reason"),
        (Changed, "11 pairs whose reward_chosen is not the response's reward"),
        (Changed, "11 pairs whose chosen response has no higher reward"),
        (Turned, "11 pairs whose reward_rejected is not the response's reward"),
        (Crossed, "11 pairs whose rejected response is another prompt's"),
        (Shortened, "10 pairs of 11 candidates"),
    ],
)
def test_deep_finds_rows_that_do_not_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: type[Maker], said: str
) -> None:
    monkeypatch.setattr("tests.helpers.make_run.Maker", maker)
    root = make_run(tmp_path / "run", rounds=1).layout.root
    assert verify_document(root, deep=False)["ok"]
    document = verify_document(root, deep=True)
    assert kinds(document) == {"rows"}
    assert any(said in problem["message"] for problem in document["problems"]), document["problems"]
