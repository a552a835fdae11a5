"""Forks: what they share, what they may change, and the command that a refused resume offers."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from selfplay.cli.main import app
from selfplay.config.load import apply_override, validate
from selfplay.core.errors import ConfigError, DriftError, SelfplayError
from selfplay.core.stages import stages_of
from selfplay.execution.progress import Reporter
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import driver
from selfplay.run.fork import Forking, prepare_fork
from selfplay.store import durable
from selfplay.store.retention import collect
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, config_of_round
from tests.helpers.configs import write_config_of
from tests.helpers.fakes import Fakes
from tests.run.test_driver import REWARD, files_of, never, resume, start

WriteConfig = Callable[..., Path]
SHARED_1 = [(number, stage) for number in (0, 1) for stage in stages_of(number)]


def selfplay(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def prepared(source: Path, from_round: int, target: Path, *overrides: str) -> Forking:
    store = Store.open(source)
    document = config_in_force(store)
    before = validate(document, "before")
    for override in overrides:
        apply_override(document, override)
    search_path = Path(store.config_json("search_path.json", str))
    return prepare_fork(
        store, from_round, before, validate(document, "after"), search_path, target, overrides=overrides
    )


def fork(source: Path, from_round: int, target: Path, *overrides: str, fakes: Fakes | None = None) -> Store:
    forking = prepared(source, from_round, target, *overrides)
    return driver.run(
        forking.prepared, forking.given(), forking.overrides(overrides), Reporter(quiet=True),
        workers=fakes or Fakes(gold=False), forked_from=forking.lineage(), files=forking.files(),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _keys_that_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not asked about: that would import vLLM."""
    monkeypatch.setattr(driver, "check_pass_through", lambda config: None)


@pytest.fixture(scope="module")
def made(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds of 12 prompts; read only."""
    folder = tmp_path_factory.mktemp("made")
    config = write_config_of(tiny_world, folder, prompts={"per_round": 12}, storage={"keep_policies": "all"})
    return start(config, folder / "run", Fakes(gold=False)).layout.root


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "source"))


def test_a_fork_shares_rounds_and_goes_on_with_other_settings(source: Path, tmp_path: Path) -> None:
    before, fakes = files_of(source), Fakes(gold=False)
    settings = (
        "training.beta=0.3",
        "pairs.build=all",
        "selection.metric=random",
        "sampling.num_responses=3",
        "rounds=3",
    )
    store = fork(source, 1, tmp_path / "fork", *settings, fakes=fakes)
    other = Store.open(source)
    assert files_of(source) == before
    for key in SHARED_1:
        assert store.digest_of(*key) == other.digest_of(*key)
        assert store.commit_of(*key).fingerprint != store.commit_of(2, "sample").fingerprint
    part = "rounds/001/sample/part-00000.parquet"
    assert (tmp_path / "fork" / part).stat().st_ino == (source / part).stat().st_ino
    # rounds 2 and 3 are its own: 12 prompts each, and 2 evaluations of 10, sampled and greedy
    assert store.rounds() == [0, 1, 2, 3]
    assert len(fakes.sampler.requests) == 2 * 12 + 2 * 2 * 10
    assert store.table(1, "sample").num_rows == 4 * 12
    assert store.table(2, "sample").num_rows == 3 * 12
    assert store.digest_of(2, "sample") != other.digest_of(2, "sample")
    assert {job.beta for job in fakes.trainer.jobs} == {0.3}
    # each round is judged by the settings that it was made with
    assert config_of_round(store, 1)["sampling"]["num_responses"] == 4
    assert config_of_round(store, 2)["sampling"]["num_responses"] == 3
    assert verify_document(tmp_path / "fork", deep=True)["problems"] == []
    identity = json.loads((tmp_path / "fork/RUN.json").read_bytes())
    assert identity["forked_from"]["run"] == other.run_id
    assert identity["forked_from"]["changes"][0] == {"name": "sampling.num_responses", "before": 4, "after": 3}
    # it stands by itself
    shutil.rmtree(source)
    resume(tmp_path / "fork", Fakes(gold=False), rounds=4)
    assert verify_document(tmp_path / "fork", deep=True)["problems"] == []
    with pytest.raises(DriftError, match=r"training\.beta: 0\.3 -> 0\.1"):
        resume(tmp_path / "fork", never, training={**config_in_force(store)["training"], "beta": 0.1})


def test_a_fork_of_a_fork_knows_the_settings_of_every_round(source: Path, tmp_path: Path) -> None:
    fork(source, 1, tmp_path / "one", "sampling.num_responses=3", "rounds=3")
    for last, counts in ((1, [4, 5, 5]), (2, [4, 3, 5])):
        store = fork(tmp_path / "one", last, tmp_path / f"two{last}", "sampling.num_responses=5")
        assert [config_of_round(store, number)["sampling"]["num_responses"] for number in (1, 2, 3)] == counts
        assert [store.table(number, "sample").num_rows for number in (1, 2, 3)] == [12 * count for count in counts]
        assert verify_document(tmp_path / f"two{last}", deep=True)["problems"] == []


def test_accumulated_data_reads_the_shared_rounds(source: Path, tmp_path: Path) -> None:
    fakes = Fakes(gold=False)
    store = fork(source, 1, tmp_path / "fork", "training.data=accumulated", fakes=fakes)
    (job,) = fakes.trainer.jobs
    kept = [row["pair_id"] for number in (1, 2) for row in store.table(number, "select").to_pylist() if row["kept"]]
    assert sorted(pair.pair_id for pair in job.pairs) == sorted(kept)
    with pytest.raises(
        DriftError, match=r"a kept pair of the shared round 1 has \d+ tokens, more than training.max_length"
    ):
        prepared(source, 1, tmp_path / "x", "training.data=accumulated", "training.max_length=20")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "seed: 0 -> 1: the order of the prompts and the held-out responses of round 0 come from it"),
        (
            "prompts.per_round=6",
            "prompts.per_round: 12 -> 6: the prompts of rounds 1 to 1 are slices of one seeded order",
        ),
        ("prompts.order=same", "prompts.order: fresh -> same: the prompts of rounds"),
        ("policy.system_prompt=Hi", "policy.system_prompt: None -> Hi: the shared rounds started from this policy"),
        ("evaluation.num_prompts=4", "evaluation.num_prompts: 10 -> 4: later rounds are compared with the held-out"),
        ("evaluation=null", "evaluation: True -> False: later rounds are compared"),
        ("reward.max_length=64", "reward.max_length: None -> 64: it judged the held-out responses of round 0"),
    ],
)
def test_what_the_shared_rounds_stand_for_cannot_change(source: Path, tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(DriftError) as refused:
        prepared(source, 1, tmp_path / "fork", override)
    assert said in refused.value.message
    assert refused.value.exit_code == 4
    result = selfplay("fork", source, "--from-round", 1, override)
    assert result.exit_code == 4
    assert said in result.stderr
    assert not (tmp_path / "source-from-1").exists()
    # and a resume that asks for it is offered no fork that would be refused
    with pytest.raises(DriftError) as drift:
        name, _, value = override.partition("=")
        section, _, key = name.rpartition(".")
        resume(source, never, **{f"{section}__{key}" if section else key: {"null": None}.get(value, as_value(value))})
    offered = re.findall(r"--from-round (\d)", drift.value.hint)
    assert offered == (["0"] if override.startswith("prompts") else []), drift.value.hint
    if not offered:
        assert said.partition(": ")[2][-20:] in drift.value.hint


def as_value(text: str) -> Any:
    return int(text) if text.isdigit() else text


def test_from_round_zero_the_prompts_may_change(source: Path, tiny_world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"another {number}"} for number in range(20)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"prompts.source={tmp_path / 'more.jsonl'}", "prompts.per_round=10")
    forking = prepared(source, 0, tmp_path / "fork", *settings)
    assert [change.name for change in forking.changes] == ["prompts.source", "prompts.per_round"]
    store = fork(source, 0, tmp_path / "fork", *settings)
    assert store.digest_of(0, "evaluate") == Store.open(source).digest_of(0, "evaluate")
    assert {row["messages"][0]["content"][:7] for row in store.table(1, "prompts").to_pylist()} == {"another"}
    assert verify_document(tmp_path / "fork", deep=True)["problems"] == []
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    with pytest.raises(DriftError, match=r"the content of prompts\.source: the prompts of rounds 1 to 1 are slices"):
        prepared(source, 1, tmp_path / "x", settings[0])


def test_without_an_evaluation_the_reward_may_change(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(REWARD)
    start(write_config(evaluation=None, rounds=1), tmp_path / "source", Fakes(gold=False))
    settings = ("reward.model=null", f"reward.function={tmp_path / 'other.py'}:reward", "rounds=2")
    store = fork(tmp_path / "source", 1, tmp_path / "fork", *settings)
    assert verify_document(tmp_path / "fork", deep=True)["problems"] == []
    assert store.is_committed(2, "evaluate")


def test_other_sampling_is_said_to_touch_the_held_out_numbers(source: Path, tmp_path: Path) -> None:
    (note,) = prepared(source, 1, tmp_path / "x", "sampling.temperature=1.1", "sampling.top_k=5").notes
    assert note.startswith("sampling.temperature, sampling.top_k: the held-out prompts are answered with it too")
    assert prepared(source, 1, tmp_path / "x", "sampling.num_responses=5").notes == []
    with pytest.raises(DriftError, match=r"a held-out prompt of the shared round 0 has \d+ tokens"):
        prepared(source, 1, tmp_path / "x", "sampling.max_tokens=485")


@pytest.mark.parametrize(
    ("from_round", "overrides", "said"),
    [
        (3, ["rounds=9"], "round 3 of .* is not complete; the last complete one is round 2"),
        (2, [], "after the shared rounds 0 to 2 nothing is left to do"),
        (2, ["rounds=1"], "nothing is left to do"),
    ],
)
def test_rounds_that_cannot_be_forked_from(
    source: Path, tmp_path: Path, from_round: int, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        prepared(source, from_round, tmp_path / "fork", *overrides)


def test_a_policy_that_gc_took_cannot_be_gone_on_from(source: Path, tmp_path: Path) -> None:
    resume(source, Fakes(gold=False), rounds=4)
    taken = [held.round for held in collect(Store.open(source), 2, "gc")]
    assert taken
    for number in range(1, 5):
        if number not in taken:
            # marks of earlier rounds are shared with the rest
            store = fork(source, number, tmp_path / f"fork{number}", "training.beta=0.2", f"rounds={number + 1}")
            assert verify_document(tmp_path / f"fork{number}", deep=True)["problems"] == []
            assert [n for n in range(1, number) if store.tombstone(n)] == [n for n in taken if n < number]
            continue
        with pytest.raises(ConfigError, match=f"the policy of round {number} .* was deleted on") as refused:
            prepared(source, number, tmp_path / "no", "training.beta=0.2")
        assert "Rounds that can be forked from: 0, " in refused.value.hint


def test_a_dry_run_says_what_is_shared_and_makes_nothing(source: Path, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    arguments = ["fork", source, "--from-round", 1, "training.beta=0.2", "--run-dir", tmp_path / "new", "--dry-run"]
    result = selfplay(*arguments)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"shared: rounds 0 to 1 of {source} (10 stages, " in result.stderr
    assert "changed: training.beta: 0.1 -> 0.2" in result.stderr
    assert "then: round 2" in result.stderr
    document = json.loads(selfplay(*arguments, "--json").stdout)
    assert document["shared"] == [f"{number:03d}/{stage}" for number, stage in SHARED_1]
    assert document["changes"] == [{"name": "training.beta", "before": 0.1, "after": 0.2, "tag": "identity"}]
    assert document["plan"]["rounds_done"] == 1
    assert files_of(tmp_path) == before


def test_made_and_not_run_it_is_begun_by_a_resume(source: Path, tmp_path: Path) -> None:
    result = selfplay("fork", source, "--from-round", 1, "selection.metric=random", "--no-run")
    assert result.exit_code == 0, result.stderr
    made = tmp_path / "source-from-1"
    assert f"resume {made}" in result.stderr
    assert Store.open(made).attempt_documents() == []
    assert verify_document(made, deep=True)["problems"] == []
    assert selfplay("status", made).stdout.splitlines()[2] == "next: round 2 prompts"
    assert selfplay("fork", source, "--from-round", 1, "selection.metric=random").exit_code == 2
    forked = config_in_force(Store.open(made))
    assert forked["selection"]["metric"] == "random"
    go_on(made)
    assert Store.open(made).is_committed(2, "evaluate")
    assert verify_document(made, deep=True)["problems"] == []


def go_on(run: Path) -> None:
    """Resume as it is, also where no attempt was made yet."""
    store = Store.open(run)
    config = validate(config_in_force(store), "run")
    ready = driver.preflight(config, Path(store.config_json("search_path.json", str)), run, store)
    pins = store.config_json("pins.json", dict)
    driver.resume(store, ready, config, pins, Reporter(quiet=True), workers=Fakes(gold=False))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rounds": 3, "training__beta": 0.2}, ["2", "training.beta=0.2", "rounds=3"]),
        ({"training__beta": 0.2}, ["2", "training.beta=0.2", "rounds=3"]),
        ({"rounds": 3, "training__lora": {"r": 4}}, None),
        (
            {"rounds": 3, "sampling__engine": {"max_model_len": 250}},
            ["2", "sampling.engine.max_model_len=250", "rounds=3"],
        ),
        ({"rounds": 3, "selection__options": {"tau": 2.0}, "selection__metric": "rs_dpo"}, None),
        ({"rounds": 3, "prompts__per_round": 10}, ["0", "prompts.per_round=10", "rounds=3"]),
    ],
)
def test_a_refused_resume_offers_the_fork_that_does_it(
    source: Path, tmp_path: Path, changes: dict[str, Any], expected: list[str] | None
) -> None:
    with pytest.raises(DriftError) as refused:
        resume(source, never, **changes)
    command = shlex.split(refused.value.hint.splitlines()[-1].strip())
    assert command[:4] == ["selfplay", "fork", str(source), "--from-round"]
    if expected is not None:
        assert command[4] == expected[0]
        assert sorted(command[5:]) == sorted(expected[1:])
    made = tmp_path / "made"
    result = selfplay(*command[1:], "--run-dir", made, "--no-run")
    assert result.exit_code == 0, result.stderr
    document = config_in_force(Store.open(made))
    for name, value in {"rounds": 3, **changes}.items():
        section, _, key = name.rpartition("__")
        found = document[section][key] if section else document[key]
        assert found == value or (isinstance(value, dict) and value.items() <= found.items())
    assert verify_document(made, deep=False)["problems"] == []


def test_what_is_taken_back_is_in_the_offered_command(write_config: WriteConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(
        sampling={"engine": {"max_model_len": 250, "enable_prefix_caching": False}},
        training={"lora": {"r": 4}},
        evaluation=None,
        rounds=1,
    )
    start(config, run, Fakes(gold=False))
    with pytest.raises(DriftError) as refused:
        resume(run, never, rounds=2, sampling__engine={"max_model_len": 250}, training__lora=None)
    command = refused.value.hint.splitlines()[-1].strip()
    assert command == (
        f"selfplay fork {run} --from-round 1 'sampling.engine={{\"max_model_len\": 250}}' rounds=2 training.lora=null"
    )
    assert selfplay(*shlex.split(command)[1:], "--no-run").exit_code == 0


def test_no_fork_is_offered_where_no_round_is_whole(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes(gold=False)
    fakes.sampler.sample = never  # type: ignore[method-assign]
    with pytest.raises((SelfplayError, TypeError)):
        start(write_config(), tmp_path / "run", fakes)
    with pytest.raises(DriftError, match="no round is complete that a fork could share"):
        resume(tmp_path / "run", never, training__beta=0.2)
    with pytest.raises(ConfigError, match="has no complete round to fork from"):
        prepared(tmp_path / "run", 0, tmp_path / "fork", "training.beta=0.2")


def test_a_fork_that_was_killed_while_it_was_made_is_completed_by_a_resume(source: Path, tmp_path: Path) -> None:
    forking = prepared(source, 1, tmp_path / "fork", "training.beta=0.2")
    arguments = (forking.prepared, forking.given(), [], Reporter(quiet=True), forking.lineage(), forking.files())
    real, operations = durable.operations, durable.Operations()
    crashed = True
    for count in range(3, 2000, 41):
        target = tmp_path / "fork"

        def die(operation: str, path: Path, index: int, count: int = count) -> None:
            if index >= count:
                raise OSError(5, "the machine is gone")

        durable.operations = durable.Operations(before=die)
        try:
            driver.create(*arguments)
            crashed = False
        except SelfplayError:
            pass
        finally:
            durable.operations = real
        assert operations is not real
        if (target / "RUN.json").is_file():
            assert verify_document(target, deep=True)["problems"] == []
            store = Store.open(target)
            store.clean_work()
            store.inherit()
            assert [key for key in SHARED_1 if not store.is_committed(*key)] == []
            assert verify_document(target, deep=True)["problems"] == []
        else:
            driver.create(*arguments)
        shutil.rmtree(target)
        if not crashed:
            break
    assert not crashed
    assert verify_document(source, deep=True)["problems"] == []
