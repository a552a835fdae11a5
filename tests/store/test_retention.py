"""Which policies stay: the last two and the best, whatever is asked; what goes leaves a mark that verifies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.core.errors import CorruptionError, LockedError
from selfplay.core.outcomes import EvaluateOutcome, TrainOutcome
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.lock import RunLock
from selfplay.store.manifest import policy_digest
from selfplay.store.retention import collect, stored_policies
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.sealing import rewrite
from tests.run.test_driver import resume, start

WriteConfig = Callable[..., Path]


def policies(run: Path) -> list[int]:
    """Rounds whose policy is on disk."""
    return [int(path.parts[-3]) for path in sorted(run.glob("rounds/*/train/policy"))]


def judge(store: Store, gold: dict[int, float]) -> None:
    """Have the held-out judge say other numbers, behind the store's back."""
    real = Store.outcome

    def outcome(self: Store, number: int, kind: Any) -> Any:
        found = real(self, number, kind)
        if kind is not EvaluateOutcome:
            return found
        return replace(found, evaluation=replace(found.evaluation, eval_gold_mean=gold[number]))

    store.outcome = outcome.__get__(store)  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def five_rounds(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of five rounds with all its policies; not to be written to."""
    root = tmp_path_factory.mktemp("five")
    config = root / "config.yaml"
    config.write_text(
        json.dumps(
            {
                "policy": {"model": str(tiny_world / "policy")},
                "prompts": {"source": str(tiny_world / "prompts.jsonl"), "per_round": 12},
                "sampling": {"num_responses": 3, "max_tokens": 8},
                "reward": {"model": str(tiny_world / "reward_model")},
                "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 4},
                "evaluation": {"source": str(tiny_world / "eval_prompts.jsonl"), "num_prompts": 4},
                "storage": {"keep_policies": "all"},
                "rounds": 5,
            }
        )
    )
    start(config, root / "run", Fakes())
    return root / "run"


@pytest.fixture
def run(five_rounds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(five_rounds, tmp_path / "run"))


@pytest.mark.parametrize(("best", "kept"), [(1, [1, 4, 5]), (3, [3, 4, 5]), (5, [4, 5])])
def test_the_last_two_and_the_best_stay(run: Path, best: int, kept: list[int]) -> None:
    store = Store.open(run)
    judge(store, {number: 1.0 if number == best else 0.5 for number in range(6)})
    taken = collect(store, 2, "test")
    assert policies(run) == kept
    assert [held.round for held in taken] == [number for number in range(1, 6) if number not in kept]


def test_of_equals_the_earliest_is_the_best_so_that_it_stays_so(run: Path) -> None:
    store = Store.open(run)
    judge(store, {0: 9.0, 1: 0.2, 2: 0.7, 3: 0.7, 4: 0.1, 5: 0.7})
    stays = {held.round: held.keep_reason for held in stored_policies(store, 2)}
    assert [number for number, why in stays.items() if why.startswith("the best")] == [2]
    assert stays[2] == "the best (held-out gold 0.700)"
    assert (stays[1], stays[3]) == ("", "")


@pytest.mark.parametrize(("keep", "asked"), [(None, "all"), (1, "1"), (0, "0"), (3, "3")])
def test_fewer_than_two_are_never_kept(run: Path, keep: int | None, asked: str) -> None:
    store = Store.open(run)
    judge(store, dict.fromkeys(range(6), 0.0) | {5: 1.0})
    collect(store, keep, asked)
    assert policies(run) == {None: [1, 2, 3, 4, 5], 3: [3, 4, 5]}.get(keep, [4, 5])


def test_what_gc_took_leaves_a_mark_that_verifies(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.glob("rounds/*/*/**/*") if path.is_file()}
    result = CliRunner().invoke(app, ["gc", str(run), "--keep-policies", "2", "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    gone = [row["round"] for row in document["policies"] if row["action"] == "remove"]
    assert gone and not {4, 5} & {*gone}
    assert document["removed_bytes"] > 0
    for path, data in before.items():  # everything else is as it was
        if int(path.relative_to(run).parts[1]) not in gone or "policy" not in path.parts:
            assert path.read_bytes() == data
    store = Store.open(run)
    for number in gone:
        mark = json.loads((run / f"rounds/00{number}/train/.REMOVED.json").read_bytes())
        tombstone = store.tombstone(number)
        assert tombstone is not None
        assert policy_digest(tombstone.files) == store.outcome(number, TrainOutcome).policy_digest
        assert mark["commit"] == store.digest_of(number, "train")
        assert mark["why"] == "gc --keep-policies 2"
        store.require(number, "train")
    for deep in (False, True):
        assert verify_document(run, deep=deep)["problems"] == []
    assert status_document(run)["state"] == "complete"
    # a second gc has nothing to do; resume and more rounds go on
    again = json.loads(CliRunner().invoke(app, ["gc", str(run), "--keep-policies", "2", "--json"]).stdout)
    assert [row["round"] for row in again["policies"] if row["action"] == "gone"] == gone
    assert again["removed_bytes"] == 0
    for command in (["rounds"], ["show", "1"], ["pairs", "1"], ["verify", "--deep"]):
        assert CliRunner().invoke(app, [command[0], str(run), *command[1:]]).exit_code == 0


def test_a_dry_run_says_the_same_and_changes_nothing(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["gc", str(run), "--keep-policies", "3"]
    planned = json.loads(CliRunner().invoke(app, [*arguments, "--dry-run", "--json"]).stdout)
    assert "would free" in CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert done == planned | {"dry_run": False}
    assert CliRunner().invoke(app, ["gc", str(run), "--keep-policies", "1"]).exit_code == 2
    old = CliRunner().invoke(app, ["gc", str(run), "--keep-checkpoints", "3"])
    assert old.exit_code == 2 and "--keep-policies 3" in old.stderr


def test_gc_needs_the_lock(run: Path) -> None:
    with RunLock(run / "run.lock"):
        result = CliRunner().invoke(app, ["gc", str(run), "--keep-policies", "2"])
    assert result.exit_code == LockedError.exit_code
    assert policies(run) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commit": "0" * 64}, "does not agree with the commit beside it"),
        ({"files": []}, "does not agree with the commit beside it"),
        ({"extra": 1}, "is damaged"),
        ({"why": 3}, "is damaged"),
    ],
)
def test_a_mark_that_no_gc_wrote_is_corruption(run: Path, change: dict[str, Any], said: str) -> None:
    collect(Store.open(run), 2, "test")
    path = next(iter(sorted(run.glob("rounds/*/train/.REMOVED.json"))))
    rewrite(path, lambda document: document.update(change))
    number = int(path.parts[-3])
    with pytest.raises(CorruptionError, match=said):
        Store.open(run).tombstone(number)
    problems = verify_document(run, deep=False)["problems"]
    assert [problem["file"] for problem in problems] == [str(path)]
    assert CliRunner().invoke(app, ["verify", str(run)]).exit_code == 5
    assert status_document(run)["state"] == "corrupt"


def test_a_flipped_bit_in_a_mark_is_corruption(run: Path) -> None:
    """In what no commit knows, too: when it went, and why."""
    collect(Store.open(run), 2, "test")
    path = next(iter(sorted(run.glob("rounds/*/train/.REMOVED.json"))))
    data, store = path.read_bytes(), Store.open(run)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CorruptionError, match=r"REMOVED\.json"):
            store.tombstone(int(path.parts[-3]))
    path.write_bytes(data)
    assert verify_document(run, deep=False)["ok"]


def test_a_mark_where_none_can_be_is_corruption(run: Path) -> None:
    collect(Store.open(run), 2, "test")
    path = next(iter(sorted(run.glob("rounds/*/train/.REMOVED.json"))))
    aside = run / "rounds/005/train/.REMOVED.json"
    aside.write_bytes(path.read_bytes())  # of another round
    table = run / "rounds/001/sample/.REMOVED.json"
    table.write_bytes(path.read_bytes())  # datasets are never taken
    files = {problem["file"] for problem in verify_document(run, deep=False)["problems"]}
    assert files == {str(aside), str(table)}


def test_a_mark_does_not_hide_a_policy_that_gc_never_takes(run: Path) -> None:
    store = Store.open(run)
    store.delete_policy(5, "by hand")  # what no gc does: the last policy
    (problem,) = verify_document(run, deep=False)["problems"]
    assert problem["file"] == str(run / "rounds/005/train/.REMOVED.json")
    assert "one of the last two" in problem["message"]


def test_a_policy_that_is_gone_without_a_mark_is_missing(run: Path) -> None:
    for path in (run / "rounds/002/train/policy").iterdir():
        path.unlink()
    assert {problem["kind"] for problem in verify_document(run, deep=False)["problems"]} == {"missing"}


def test_each_round_lets_go_of_what_the_storage_setting_says(write_config: WriteConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(prompts={"per_round": 10}, rounds=4, storage={"keep_policies": 2})
    store = start(config, run, Fakes(gold=False))
    stays = [held.round for held in stored_policies(store, 2) if held.keep_reason]
    assert policies(run) == stays
    assert {3, 4} <= {*stays}
    log = (run / "attempts/0001/log.txt").read_text()
    gone = [number for number in range(1, 5) if number not in stays]
    for number in gone:
        assert f"round {number}: its policy was deleted (storage.keep_policies: 2 and the best)" in log
    assert gone
    # the setting is a resource: it may change, and more rounds go on from what is there
    said = resume(run, Fakes(gold=False), rounds=5, storage={"keep_policies": "all", "keep_trainer_checkpoints": 1})
    assert "storage.keep_policies: 2 -> all (resource)" in said
    assert policies(run) == [*stays, 5]
    assert verify_document(run, deep=True)["problems"] == []
    # and a resume with nothing else to do applies it
    resume(run, Fakes(gold=False), storage={"keep_policies": 2, "keep_trainer_checkpoints": 1})
    assert len(policies(run)) <= 3
    assert (run / "rounds/005/train/policy").is_dir()
