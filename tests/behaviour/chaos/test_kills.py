"""Commands are killed at every failpoint and at random times, and gone on with: nothing that was kept is lost, nobody sees half
of anything, and the end is that of a run which nobody disturbed.

`make chaos` runs the same with `SELFPLAY_KILLS=1000`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfplay.inspect.verify.verify import verify_document
from selfplay.store.durable import sha256_file
from selfplay.store.result_folder import read_result
from selfplay.store.run import Store
from tests.behaviour.chaos.harness import (
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
    state_of,
)
from tests.behaviour.chaos.plans import Plan

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SELFPLAY_KILLS", "60"))
OF_A_RUN = 8  # kills of one batch at one run
PER_BATCH = OF_A_RUN + 7  # one at a random time, two of a selection, one of gc, two of fork, one of report
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
    return go_on(case, "run", ("run", config, "--run-dir", "run"), whole, **how)


def go_on(case: Case, name: str, begin: tuple[str | Path, ...], whole: dict[str, Any], **how: Any) -> Outcome:
    """Begin the run `name`, or go on with it where there is one, and check what is there afterwards."""
    run = case.root / name
    outcome = case.command(*(("resume", name) if (run / "RUN.json").is_file() else begin), **how)
    check_exit_code(outcome, handled=True)
    last = int(max(whole).partition("/")[0])
    complete = (run / "RUN.json").is_file() and Store.open(run).is_committed(last, "evaluate")
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
    # a stop that comes late finishes the run, and what was to follow is not reached
    assert reached >= 1, [kill.words() for kill in kills]


@pytest.mark.parametrize("batch", [0, *(pytest.param(each, marks=pytest.mark.chaos) for each in BATCHES[1:])])
def test_a_run_of_stages_side_by_side_killed_again_and_again(
    batch: int, zygote: Zygote, small_world: Path, folder: Path, whole: Case
) -> None:
    points = [label for label in whole.points() if re.search(r"sample|score|pair|logprobs", label)]
    case, expected = Case(zygote, folder / "case"), rows_of(whole.root / "run")
    begin = ("run", small_world / "config.yaml", "--run-dir", "run", "cluster.overlap=true")
    for kill in Plan(points).kills(batch, 4):
        go_on(case, "run", begin, expected, kill=kill)
    assert go_on(case, "run", begin, expected).code == 0
    check_complete(case, case.root / "run", expected, num_roles=4)


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
    with pytest.raises(AssertionError, match="'kind': 'shard'"):
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
    """Digests of a selection's files; the commit tells the time, and so does the record of the selection in `.run`. A file that
    was not renamed to its name yet is none of them."""
    return {
        path.relative_to(out).as_posix(): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.name != ".COMMIT.json"
        and not path.name.startswith(".tmp-")
        and not {".run", ".work", ".trash-.work"} & {*path.parts}
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
        finished = read_result(out) is not None
        assert finished or outcome.code != 0
        if finished:
            assert there == expected
    done = select(case, small_world)
    assert done.code == 0, done.output
    assert result_of(out) == expected
    rows, expected_rows = (tables_of(root / ".run") for root in (out, whole_selection.root / "out"))
    assert {name: digest for name, digest in rows.items() if name.endswith(".parquet")} == {
        name: digest for name, digest in expected_rows.items() if name.endswith(".parquet")
    }
    assert verify_document(out, deep=True)["ok"]
    assert leftovers(out) == []
    assert not (out / ".work").exists()


# --------------------------------------------------------------------------------------------------- gc, fork, report


@pytest.fixture(scope="session")
def long_run(zygote: Zygote, small_world: Path, ground: Path) -> Case:
    """A run of four rounds with all their policies: there is something to take away, to share and to tell."""
    case = Case(zygote, ground / "long-run")
    settings = ("rounds=4", "storage.keep_policies=all")
    done = case.command("run", small_world / "config.yaml", "--run-dir", "run", *settings)
    assert done.code == 0, done.output
    return case


def copy_of(case: Case, folder: Path) -> Case:
    """The same run in another place, for a command to be killed over it."""
    copy = Case(case.zygote, folder / "case")
    shutil.copytree(case.root, copy.root, dirs_exist_ok=True)
    return copy


def tables_of(run: Path) -> dict[str, str]:
    """Digests of all that is data in a run's rounds: everything but policies and marks."""
    return {
        path.relative_to(run).as_posix(): sha256_file(path)
        for path in sorted((run / "rounds").rglob("*"))
        if path.is_file() and not {"policy", "engine"} & {*path.parts} and "REMOVED.json" not in path.name
    }


def policies_of(run: Path) -> list[int]:
    """Rounds whose policy is there."""
    return [int(folder.parts[-3]) for folder in sorted(run.glob("rounds/*/train/policy"))]


@pytest.fixture(scope="session")
def whole_gc(long_run: Case, ground: Path) -> Case:
    case = copy_of(long_run, ground / "whole-gc")
    done = case.command("gc", "run", "--keep-policies", "2")
    assert done.code == 0, done.output
    assert len(policies_of(case.root / "run")) < 4
    return case


@pytest.mark.parametrize("batch", BATCHES)
def test_gc_killed(batch: int, folder: Path, long_run: Case, whole_gc: Case) -> None:
    (kill,) = Plan(whole_gc.points(), seed=2).kills(batch, 1)
    case = copy_of(long_run, folder)
    run = case.root / "run"
    outcome = case.command("gc", "run", "--keep-policies", "2", kill=kill)
    check_exit_code(outcome, handled=False)
    assert outcome.sent, kill.words()
    assert state_of(run) == "complete"
    document = verify_document(run, deep=True)
    assert document["ok"], document["problems"]
    assert tables_of(run) == tables_of(long_run.root / "run")
    assert case.command("gc", "run", "--keep-policies", "2").code == 0
    assert policies_of(run) == policies_of(whole_gc.root / "run")
    assert tables_of(run) == tables_of(long_run.root / "run")
    assert verify_document(run, deep=True)["ok"]
    assert leftovers(run) == []


FORK = ("fork", "run", "--from-round", "3", "--run-dir", "forked", "selection.keep=0.4")


@pytest.fixture(scope="session")
def whole_fork(long_run: Case, ground: Path) -> Case:
    case = copy_of(long_run, ground / "whole-fork")
    done = case.command(*FORK)
    assert done.code == 0, done.output
    return case


@pytest.mark.parametrize("batch", BATCHES)
def test_a_fork_killed(batch: int, folder: Path, long_run: Case, whole_fork: Case) -> None:
    expected = rows_of(whole_fork.root / "forked")
    case = copy_of(long_run, folder)
    for kill in Plan(whole_fork.points(), seed=3).kills(batch, 2):
        go_on(case, "forked", FORK, expected, kill=kill)
        assert tables_of(case.root / "run") == tables_of(long_run.root / "run")
    done = go_on(case, "forked", FORK, expected)
    assert done.code == 0, done.output
    check_complete(case, case.root / "forked", expected)
    assert rows_of(case.root / "run") == rows_of(long_run.root / "run")


@pytest.fixture(scope="session")
def whole_report(long_run: Case, ground: Path) -> Case:
    case = copy_of(long_run, ground / "whole-report")
    done = case.command("report", "run", "--out", "report.html")
    assert done.code == 0, done.output
    return case


@pytest.mark.parametrize("batch", BATCHES)
def test_a_report_killed(batch: int, folder: Path, long_run: Case, whole_report: Case) -> None:
    (kill,) = Plan(whole_report.points(), seed=4).kills(batch, 1)
    case = copy_of(long_run, folder)
    page = case.root / "report.html"
    page.write_text("the old report</html>\n")
    outcome = case.command("report", "run", "--out", "report.html", kill=kill)
    check_exit_code(outcome, handled=False)
    assert outcome.sent, kill.words()
    assert page.read_text().rstrip().endswith("</html>"), "half a report"
    assert tables_of(case.root / "run") == tables_of(long_run.root / "run")
    assert verify_document(case.root / "run", deep=True)["ok"]
    assert case.command("report", "run", "--out", "report.html").code == 0
    assert page.stat().st_size > 10_000
    # outside a run nothing cleans up after a killed command: its one temporary file has a random name
    left = leftovers(case.root)
    assert len(left) <= 1 and all(name.startswith(".tmp-report.html-") for name in left)
