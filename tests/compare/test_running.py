"""Comparisons on fakes: what is shared, what a second call does, what fails, what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.compare.running import BLOCK_LOCK
from selfplay.compare.shared_pool import SHARED_BY_ALL, SHARED_BY_LIKE
from selfplay.core.errors import BackendError, ConfigError, CorruptionError, DriftError, Interrupted, ResourceError
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.durable import sha256_file
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from tests.helpers.comparing import METRICS, fakes, run_compare
from tests.helpers.fakes import at_call
from tests.helpers.sealing import rewrite

pytestmark = pytest.mark.slow

WriteConfig = Callable[..., Path]


def files(folder: Path) -> dict[str, str]:
    """sha256 of every committed file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.glob("runs/*/*/rounds/**/*"))
        if path.is_file()
    }


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


# ---------------------------------------------------------------------- sharing


def test_arms_share_start_evaluation_and_pool(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    document = run_compare(tmp_path / "out", [config], metrics=METRICS, num_seeds=2, workers=workers)
    out = tmp_path / "out/runs"
    assert sorted(path.name for path in out.iterdir()) == [f"{config.parent.name}-s0", f"{config.parent.name}-s1"]
    # evaluation of the start (10 prompts, sampled and greedy) and the pool (20 prompts) once a block; then an evaluation an arm
    assert len(workers.sampler.requests) == 2 * (20 + 20 + 2 * 20)
    for block in out.iterdir():
        pool = Store.open(block / "pool")
        for name in ("random", "explicit_margin"):
            arm = Store.open(block / name)
            assert arm.forked_from is not None
            assert (arm.forked_from.run, arm.forked_from.root) == (pool.run_id, "../pool")
            assert sorted(arm.forked_from.keys()) == sorted(SHARED_BY_LIKE)
            for key in SHARED_BY_LIKE:
                assert arm.digest_of(*key) == pool.digest_of(*key)
            (part, *_) = (block / name / "rounds/001/sample").glob("part-*.parquet")
            assert part.stat().st_nlink == 3
            verified = verify_document(block / name, deep=True)
            assert verified["ok"], verified["problems"]
    assert document["num_done"] == document["num_runs"] == 4
    assert {row["round"] for row in document["rows"]} == {0, 1}


def test_every_arm_takes_the_same_number_of_steps(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    document = run_compare(tmp_path / "out", [config], metrics="random,full", equal="both", workers=workers)
    # keep 0.5 of 20 pairs in batches of 2, twice over
    assert document["steps"] == {config.parent.name: 10}
    steps = [(job.max_steps, job.epochs) for job in workers.trainer.jobs]
    assert steps == [(10, 1)] * 2 + [(None, 2)] * 2
    assert {row["optimizer_steps"] for row in document["rows"] if row["equal"] == "steps" and row["round"]} == {10}
    epochs = {
        row["arm"]: row["optimizer_steps"] for row in document["rows"] if row["equal"] == "epochs" and row["round"]
    }
    assert epochs["full"] > epochs["random"]
    folders = {path.name for path in (tmp_path / "out/runs").glob("*/*") if path.is_dir()}
    assert folders == {"pool", "random", "full", "random@epochs", "full@epochs"}


def test_arms_with_other_pairs_or_quantities_have_pools_of_their_own(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    run_compare(
        tmp_path / "out", [config], metrics="random,apl", workers=workers,
        arms=["chance: pairs.build=random_pair selection.metric=random", "chance too: pairs.build=random_pair",
              "simpo: training.loss=simpo training.simpo_gamma_beta_ratio=0.3"],
    )  # fmt: skip
    block = tmp_path / "out/runs" / f"{config.parent.name}-s0"
    pools = {path.name for path in block.iterdir() if path.name.startswith("pool")}
    assert len(pools) == 4
    origin = {
        name: Store.open(block / name).forked_from.root for name in ("random", "apl", "chance", "chance-too", "simpo")
    }
    assert origin["chance"] == origin["chance-too"]
    assert len({*origin.values()}) == 4
    assert origin["random"] == "../pool"
    for name in pools - {"pool"}:
        fork = Store.open(block / name).forked_from
        assert fork is not None
        assert (fork.root, sorted(fork.keys())) == ("../pool", sorted(SHARED_BY_ALL))
    for name in origin:
        assert verify_document(block / name, deep=True)["ok"]
    # nothing is sampled twice: one start and one pool
    assert len(workers.sampler.requests) == 20 + 20 + 5 * 20


def test_a_stage_that_is_not_the_inherited_one_is_found(out: Path) -> None:
    (arm,) = (out / "runs").glob("*/random")
    commit = arm / "rounds/001/pair/.COMMIT.json"
    rewrite(commit, lambda document: document.update(created="2020-01-01T00:00:00Z"))
    problems = verify_document(arm, deep=False)["problems"]
    assert {problem["kind"] for problem in problems} == {"chain"}
    assert any("forked with" in problem["message"] for problem in problems)


# ---------------------------------------------------------------------- the same command again


def test_the_same_command_again_does_nothing(finished: Path, out: Path) -> None:
    first = json.loads((out / "results.json").read_text())
    before, workers = files(out), fakes()
    said = io.StringIO()
    config = finished.with_name("config.yaml")
    assert run_compare(out, [config], metrics=METRICS, workers=workers, said=said) == first
    assert run_compare(out, workers=workers) == first
    assert not workers.sampler.requests
    assert not workers.trainer.jobs
    assert files(out) == before
    assert "2 of them over before" in said.getvalue()


@pytest.mark.parametrize("stage", ["pool", "train"])
def test_a_killed_comparison_goes_on_to_the_same_rows(finished: Path, tmp_path: Path, stage: str) -> None:
    workers = fakes()
    victim, method, number = {
        "pool": (workers.scorer, "score", 3),
        "train": (workers.trainer, "train", 3),
    }[stage]

    def die() -> None:
        os._exit(77)

    at_call(victim, method, number, die)
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        try:
            run_compare(out, [finished.with_name("config.yaml")], metrics=METRICS, by="topic", workers=workers)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
    kept = files(out)
    again = run_compare(out)
    assert kept.items() <= files(out).items()
    assert without_seconds(again) == without_seconds(json.loads((finished / "results.json").read_text()))
    for run in (tmp_path / "out/runs").glob("*/*/RUN.json"):
        assert verify_document(run.parent, deep=True)["ok"]


def without_seconds(document: dict[str, Any]) -> dict[str, Any]:
    rows = [{key: value for key, value in row.items() if key != "seconds_train"} for row in document["rows"]]
    return {**document, "rows": rows}


def test_a_run_killed_before_it_took_over_its_pool_takes_it_over(out: Path) -> None:
    whole = json.loads((out / "results.json").read_text())
    (arm,) = (out / "runs").glob("*/random")
    for name in ("000", "001", "002"):
        shutil.rmtree(arm / "rounds" / name)
    workers = fakes()
    assert without_seconds(run_compare(out, workers=workers, trust_code=True)) == without_seconds(whole)
    assert len(workers.sampler.requests) == 2 * 20 + 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_a_safe_point(config: Path, tmp_path: Path, number: int, code: int) -> None:
    workers = fakes()
    at_call(workers.trainer, "train", 1, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped on request") as stopped:
        run_compare(tmp_path / "out", [config], metrics=METRICS, workers=workers)
    assert stopped.value.exit_code == code
    assert f"selfplay compare --out {tmp_path / 'out'}" in stopped.value.hint
    assert signal.getsignal(number) == before
    assert run_compare(tmp_path / "out")["num_done"] == 2


def test_twice_ctrl_c_stops_at_once(config: Path, tmp_path: Path) -> None:
    workers = fakes()

    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_call(workers.sampler, "sample", 3, twice)
    with pytest.raises(Interrupted, match="at once") as stopped:
        run_compare(tmp_path / "out", [config], metrics="random", workers=workers)
    assert stopped.value.exit_code == 130
    assert run_compare(tmp_path / "out")["num_done"] == 1


def test_arms_seeds_and_configs_are_added(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_compare(out, [config], metrics="random")
    before = files(out)
    other = config.with_name("other.yaml")
    other.write_text(config.read_text().replace("temperature: 0.8", "temperature: 0.9"))
    workers = fakes()
    found = run_compare(out, [other], metrics="explicit_margin", num_seeds=2, workers=workers)
    assert before.items() <= files(out).items()
    assert found["num_done"] == found["num_runs"] == 2 * 2 * 2
    assert (found["control"], found["worlds"]) == ("random", [config.parent.name, "other"])
    # 4 blocks and 8 runs, one of each made before
    assert len(workers.sampler.requests) == 3 * 40 + 7 * 20


def test_rounds_are_added(out: Path) -> None:
    before, workers = files(out), fakes()
    found = run_compare(out, rounds=3, workers=workers, trust_code=True)
    # the policies of round 1 go, as storage.keep_policies says: nothing else does
    stays = {name: digest for name, digest in before.items() if "/rounds/001/train/policy/" not in name}
    assert len(stays) < len(before) and stays.items() <= files(out).items()
    assert (found["rounds"], found["num_done"]) == (3, 2)
    assert len(workers.sampler.requests) == 2 * 40


def test_two_processes_share_the_blocks(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_compare(out, [config], metrics="random")
    said = io.StringIO()
    with RunLock(out / "runs" / f"{config.parent.name}-s0" / BLOCK_LOCK):
        found = run_compare(out, metrics="full", num_seeds=2, said=said)
    assert "left to the process that works on it" in said.getvalue()
    assert (found["num_done"], found["num_runs"]) == (3, 4)


# ---------------------------------------------------------------------- failures


def test_a_failed_arm_is_recorded_and_the_others_go_on(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    at_call(workers.trainer, "train", 2, failing(BackendError("training stopped at optimizer step 3: the loss is nan")))
    out = tmp_path / "out"
    found = run_compare(out, [config], metrics=METRICS, workers=workers, control="explicit_margin", rounds=2)
    (failed,) = found["failed"]
    assert (failed["arm"], failed["rounds_done"]) == ("random", 1)
    assert "the loss is nan" in failed["reason"]
    assert (found["num_done"], found["num_runs"]) == (1, 2)
    assert "the loss is nan" in (out / "report.md").read_text()
    rounds = {row["round"] for row in found["rows"] if row["arm"] == "random"}
    assert rounds == {0, 1}
    # again: it stays failed, until it is to be tried again
    assert run_compare(out)["failed"] == found["failed"]
    again = run_compare(out, retry_failed=True)
    assert (again["failed"], again["num_done"]) == ([], 2)


def test_what_is_no_fault_of_an_arm_ends_the_comparison(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    at_call(workers.trainer, "train", 1, failing(ResourceError("no memory is left")))
    with pytest.raises(ResourceError, match="no memory is left"):
        run_compare(tmp_path / "out", [config], metrics="random", workers=workers)
    assert run_compare(tmp_path / "out", retry_failed=True)["num_done"] == 1


def test_a_pool_that_fails_ends_the_comparison_and_is_made_later(config: Path, tmp_path: Path) -> None:
    workers = fakes()
    at_call(workers.scorer, "score", 2, failing(BackendError("the reward model died")))
    with pytest.raises(BackendError, match="the reward model died"):
        run_compare(tmp_path / "out", [config], metrics="random", workers=workers)
    assert run_compare(tmp_path / "out")["num_done"] == 1


# ---------------------------------------------------------------------- refused


def test_changed_settings_are_refused_with_a_diff(finished: Path, out: Path) -> None:
    config, before = finished.with_name("config.yaml"), files(out)
    with pytest.raises(DriftError, match=r"training\.beta: 0\.1 -> 0\.3"):
        run_compare(out, [config], "training.beta=0.3", metrics=METRICS)
    with pytest.raises(DriftError, match=r"selection\.metric=random -> selection\.metric=full"):
        run_compare(out, [config], arms=["random: selection.metric=full"])
    assert files(out) == before
    # resources may change
    assert run_compare(out, [config], "training.checkpoint_every=3")["num_done"] == 2


def test_changed_inputs_are_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_compare(out, [config], metrics="random")
    (tmp_path / "my_gold.py").write_text("def gold(prompt, response):\n    return 1.0\n")
    with pytest.raises(DriftError, match=r"evaluation\.gold"):
        run_compare(out, metrics="explicit_margin")


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("x: sampling.temperature=1.0", r"sets sampling\.temperature; arms share"),
        ("x: training.max_length=99", r"sets training\.max_length; arms share"),
        ("x: seed=3", r"sets seed; arms share"),
        ("x: training.epochs=5", r"sets training\.epochs, which the comparison makes equal"),
        ("x: training.max_steps=5", r"sets training\.max_steps, which the comparison makes equal"),
        ("x: selection.metric=alignment_potentail", r"alignment_potential"),
    ],
)
def test_arms_that_cannot_be(config: Path, tmp_path: Path, arm: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_compare(tmp_path / "out", [config], metrics="random", arms=[arm])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared(write_config: WriteConfig, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="needs a config and arms"):
        run_compare(out, metrics="random")
    with pytest.raises(ConfigError, match="needs a config and arms"):
        run_compare(out, [config])
    with pytest.raises(ConfigError, match="not one of the arms"):
        run_compare(out, [config], metrics="random", control="nobody")
    with pytest.raises(ConfigError, match="cannot have equal epochs"):
        run_compare(out, [config], "training.epochs=1", "training.max_steps=3", metrics="random", equal="epochs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a comparison"):
        run_compare(elsewhere, [config], metrics="random")
    bare = write_config(evaluation=None)
    with pytest.raises(ConfigError, match="has no evaluation") as refused:
        run_compare(tmp_path / "bare", [bare], metrics="random")
    assert "evaluation: {source: FILE" in refused.value.hint


def test_a_damaged_settings_file_is_named(out: Path) -> None:
    document = json.loads((out / "compare.json").read_text())
    (out / "compare.json").write_text(json.dumps({**document, "arms": None}))
    with pytest.raises(CorruptionError, match="is damaged"):
        run_compare(out)
    (out / "compare.json").write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(ConfigError, match="newer selfplay"):
        run_compare(out)


def test_without_gold_the_reward_judges(write_config: WriteConfig, tmp_path: Path) -> None:
    found = run_compare(tmp_path / "out", [write_config()], metrics=METRICS, workers=fakes(gold=False), rounds=1)
    assert found["judge"] == "reward"
    row = next(row for row in found["summary"] if row["arm"] == "explicit_margin" and row["round"] == 1)
    assert row["gold_mean"] is None
    assert row["difference"] is not None
    assert "reward of the model that was trained on" in (tmp_path / "out/report.md").read_text()
