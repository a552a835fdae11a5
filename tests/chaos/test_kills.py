"""Commands are killed at every failpoint and at random times, and gone on with: nothing that was kept is lost, nobody sees half
of anything, and the end is that of a run which nobody disturbed.

`make chaos` runs the same with `SELFPLAY_KILLS=1000`.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import (
    TALLY,
    Case,
    Kill,
    Outcome,
    Zygote,
    check_complete,
    check_crash_state,
    check_exit_code,
    check_readers,
    leftovers,
    rows_of,
)
from plans import Plan

from selfplay.store.durable import sha256_file
from selfplay.store.output import read_output
from selfplay.store.run import Store

KILLS = int(os.environ.get("SELFPLAY_KILLS", "64"))
OF_A_RUN = 6  # kills of one batch at one run
PER_BATCH = OF_A_RUN + 2
BATCHES = range(-(-KILLS // PER_BATCH))


@pytest.fixture
def folder(ground: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A place for one test's cases; removed when the test has passed."""
    path = ground / request.node.name
    yield path
    shutil.rmtree(path)


# ---------------------------------------------------------------------------------------------------------------- runs


def attempt(case: Case, config: Path, whole: dict[str, Any], **how: Any) -> Outcome:
    """Start the run or go on with it, and check what is there afterwards."""
    run = case.root / "run"
    arguments = ("resume", "run") if (run / "RUN.json").is_file() else ("run", config, "--run-dir", "run")
    outcome = case.command(*arguments, **how)
    check_exit_code(outcome, handled=True)
    complete = (run / "RUN.json").is_file() and Store.open(run).is_committed(1, "evaluate")
    assert complete or outcome.code != 0, "exit code 0, but the run is not complete"
    check_crash_state(case, run, whole, complete)
    return outcome


def run_through(case: Case, config: Path, whole: dict[str, Any], kills: list[Kill]) -> int:
    """A run with a kill in each attempt, then one that nobody disturbs; returns how many of the kills were reached."""
    reached = 0
    for kill in kills:
        try:
            reached += bool(attempt(case, config, whole, kill=kill).sent)
        except AssertionError as error:
            error.add_note(f"{kill.words()} in {case.root}")
            raise
    done = attempt(case, config, whole)
    assert done.code == 0, done.output
    check_complete(case, case.root / "run", whole)
    return reached


@pytest.mark.parametrize("batch", BATCHES)
def test_a_run_killed_again_and_again(batch: int, zygote: Zygote, small_world: Path, folder: Path, whole: Case) -> None:
    kills = Plan(whole.points()).kills(batch, OF_A_RUN)
    case = Case(zygote, folder / "case")
    reached = run_through(case, small_world / "config.yaml", rows_of(whole.root / "run"), kills)
    assert reached >= OF_A_RUN // 2, [kill.words() for kill in kills]


@pytest.mark.parametrize("batch", BATCHES)
def test_a_run_killed_at_a_random_time(
    batch: int, zygote: Zygote, small_world: Path, folder: Path, whole: Case
) -> None:
    rng, expected = random.Random(batch), rows_of(whole.root / "run")
    case = Case(zygote, folder / "case")
    signal = ("KILL", "TERM", "KILL", "INT")[batch % 4]
    attempt(case, small_world / "config.yaml", expected, shots=[(rng.uniform(0.02, 0.6), signal)])
    attempt(case, small_world / "config.yaml", expected)
    check_complete(case, case.root / "run", expected)


@pytest.mark.chaos
def test_a_run_killed_at_every_failpoint(zygote: Zygote, small_world: Path, folder: Path, whole: Case) -> None:
    sequence, expected = whole.points(), rows_of(whole.root / "run")
    for number, label in enumerate(sorted(set(sequence) - TALLY.points.keys())):
        case = Case(zygote, folder / f"case-{number}")
        occurrence = random.Random(label).randint(1, sequence.count(label))
        assert run_through(case, small_world / "config.yaml", expected, [Kill(label, occurrence, ("KILL",))]) == 1, (
            label
        )
        shutil.rmtree(case.root)
    assert set(sequence) <= TALLY.points.keys()


def test_a_reader_beside_a_run_sees_whole_stages(zygote: Zygote, small_world: Path, folder: Path, whole: Case) -> None:
    expected = rows_of(whole.root / "run")
    case, failures, reads, over = Case(zygote, folder / "case"), [], [], threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                check_readers(case.root / "run", expected)
            except Exception as error:
                failures.append(error)
            reads.append(len(list(case.root.glob("run/rounds/*/*"))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert case.command("run", small_world / "config.yaml", "--run-dir", "run").code == 0
    finally:
        over.set()
        reader.join()
    assert failures == []
    assert len(set(reads)) > 2, "nothing was read while the run was under way"


def test_a_store_that_writes_in_place_is_caught(zygote: Zygote, small_world: Path, folder: Path, whole: Case) -> None:
    case, expected = Case(zygote, folder / "case"), rows_of(whole.root / "run")
    case.sabotage = True
    with pytest.raises(AssertionError, match="is damaged"):
        attempt(
            case,
            small_world / "config.yaml",
            expected,
            kill=Kill("write run/.work/N-sample/.part-N.json", 2, ("KILL",)),
        )


# ---------------------------------------------------------------------------------------------------------- selections


def select(case: Case, world: Path, **how: Any) -> Outcome:
    """A selection that computes rewards and log-probs."""
    config = yaml.safe_load((world / "config.yaml").read_text())
    return case.command(
        "select", world / "pairs.jsonl", "--metric", "alignment_potential", "--keep", "0.4", "--out", "out",
        "--policy", config["policy"]["model"], "--reward-model", config["reward"]["model"], "shard_size=4", **how,
    )  # fmt: skip


def result_of(out: Path) -> dict[str, str]:
    """Digests of a selection's files; the commit tells the time."""
    return {
        path.relative_to(out).as_posix(): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".COMMIT.json" and not {".work", ".trash-.work"} & {*path.parts}
    }


@pytest.fixture(scope="session")
def whole_selection(zygote: Zygote, small_world: Path, ground: Path) -> Case:
    case = Case(zygote, ground / "whole-selection")
    done = select(case, small_world)
    assert done.code == 0, done.output
    return case


@pytest.mark.parametrize("batch", BATCHES)
def test_a_selection_killed(batch: int, zygote: Zygote, small_world: Path, folder: Path, whole_selection: Case) -> None:
    expected = result_of(whole_selection.root / "out")
    case = Case(zygote, folder / "case")
    out = case.root / "out"
    for kill in Plan(whole_selection.points(), seed=1).kills(batch, 2):
        outcome = select(case, small_world, kill=kill)
        check_exit_code(outcome, handled=True)
        there = result_of(out) if out.exists() else {}
        assert there.items() <= expected.items(), "half a file can be read"
        finished = read_output(out) is not None
        assert finished or outcome.code != 0
        if finished:
            assert there == expected
    done = select(case, small_world)
    assert done.code == 0, done.output
    assert result_of(out) == expected
    assert leftovers(out) == []
    assert not (out / ".work").exists()
