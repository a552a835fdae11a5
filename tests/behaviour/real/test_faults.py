"""The real engine, the real reward model and the real trainer killed under a driver that lives: it goes on by itself, to the
rows and the weights of an undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from selfplay.core.outcomes import SampleOutcome, TrainOutcome
from selfplay.store.run import Store
from tests.behaviour.real.conftest import PATIENCE, committed_rows, num_kept, wait_for

LITTLE = ("rounds=1", "prompts.per_round=80", "training.epochs=3", "evaluation.num_prompts=4")


def worker(run: Path, name: str, child: psutil.Popen) -> int:
    """The process whose output is the log of this worker."""
    for process in psutil.Process(child.pid).children(recursive=True):
        try:
            if Path(f"/proc/{process.pid}/fd/1").readlink().name == f"{name}-0.log":
                return process.pid
        except OSError:
            continue
    raise AssertionError(f"no process of {name}")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_killed_workers_are_replaced_and_the_run_ends_as_ever(
    config: Path, tmp_path: Path, selfplay: Callable[..., psutil.Popen]
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    work = run / ".work"
    child = selfplay(["run", config, "--run-dir", run, *LITTLE], wait=False)
    moments: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("sampler", lambda: num_kept(run, "001-sample") >= 3),
        ("scorer", lambda: num_kept(run, "001-score") >= 2),
        ("trainer", lambda: any((work / "001-trainer").rglob(".SEAL.json"))),
    )
    for name, reached in moments:
        wait_for(reached, child)
        os.kill(worker(run, name, child), signal.SIGKILL)
    assert child.wait(timeout=PATIENCE) == 0, (tmp_path / "output.txt").read_text()[-2000:]
    log = (run / "attempts/0001/log.txt").read_text()
    for name, _ in moments:
        assert f"{name} worker 0 died (" in log and f"{name}-0.log" in log
    train = Store.open(run).outcome(1, TrainOutcome).to_json()
    assert train["resumed_from_step"] > 0, "training began anew instead of from its checkpoint"
    assert Store.open(run).outcome(1, SampleOutcome).to_json()["quarantined"] == {}

    selfplay(["run", config, "--run-dir", whole, *LITTLE])
    assert committed_rows(run, 1) == committed_rows(whole, 1)
    assert train["policy_digest"] == Store.open(whole).outcome(1, TrainOutcome).to_json()["policy_digest"]
