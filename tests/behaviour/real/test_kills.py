"""A round on real vLLM, Ray and TRL, killed with SIGKILL while it samples and while it trains, and resumed each time.
Every stage of two rounds is killed by `make chaos` (test_chaos.py).

Ends with the rows of an uninterrupted run; what was committed before a kill is still there, byte for byte, and was not asked
for again; nothing that the driver started outlives it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from selfplay.core.outcomes import TrainOutcome
from selfplay.run import loop
from selfplay.store.run import Store
from tests.helpers.processes import check_gone, family_of, lines_of


def shards(run: Path) -> dict[str, str]:
    """Name and sha256 of every shard that is kept, committed or in work (a shard counts once its sidecar is there)."""
    found = {}
    for sidecar in [*run.glob(".work/*/.part-*.json"), *run.glob("rounds/*/*/.part-*.json")]:
        part = sidecar.with_name(sidecar.stem[1:] + ".parquet")
        stage = "/".join(part.parent.parts[-2:]) if "rounds" in part.parts else part.parent.name.replace("-", "/", 1)
        found[f"{stage}/{part.name}"] = hashlib.sha256(part.read_bytes()).hexdigest()
    return found


def wait_for(condition: Callable[[], bool], child: psutil.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, "the run ended before the kill"
        assert time.monotonic() < deadline, "the run did not come to where it was to be killed"
        time.sleep(0.005)


def kill(child: psutil.Popen) -> None:
    """SIGKILL, then check that everything the driver had started is gone within seconds."""
    family = family_of(child)
    assert len(lines_of(family)) >= 4, "a raylet, a gcs server and workers were expected"
    child.kill()
    child.wait()
    check_gone(family)


def kept(run: Path, stage: str) -> int:
    return len(list((run / ".work" / stage).glob(".part-*.json")))


def committed_rows(run: Path) -> dict[str, list[str]]:
    """Digests of all tables, and of the policies' weights: a training that was killed ends with the same bits."""
    store = Store.open(run)
    return {
        f"{number}/{name}": [
            entry.sha256
            for entry in store.commit_of(number, name).files
            if entry.rows is not None or entry.path.endswith(".safetensors")
        ]
        for number, name in loop.plan(1)
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_while_sampling_and_training_lose_nothing(
    config: Path, tmp_path: Path, selfplay: Callable[..., psutil.Popen]
) -> None:
    run = tmp_path / "run"
    work = run / ".work"
    moments: list[tuple[str, Callable[[], bool]]] = [
        ("sampling", lambda: kept(run, "001-sample") >= 3),
        ("training", lambda: any((work / "001-trainer").rglob(".SEAL.json"))),
    ]
    before: dict[str, str] = {}
    for number, (_, reached) in enumerate(moments):
        arguments = ["run", config, "--run-dir", run, "rounds=1"] if number == 0 else ["resume", run]
        child = selfplay(arguments, wait=False)
        wait_for(reached, child)
        before |= shards(run)
        kill(child)
        now = shards(run)
        assert before.items() <= now.items(), "a shard that was kept before the kill is not there, or is another"
        before = now
    selfplay(["resume", run])
    assert Store.open(run).outcome(1, TrainOutcome).to_json()["resumed_from_step"] > 0, (
        "training began anew instead of from its checkpoint"
    )
    assert before.items() <= shards(run).items()

    whole = tmp_path / "whole"
    selfplay(["run", config, "--run-dir", whole, "rounds=1"])
    assert committed_rows(run) == committed_rows(whole)

    samples = pq.read_table(run / "rounds/001/sample", partitioning=None).to_pylist()
    rewards = {
        row["response_id"]: row for row in pq.read_table(run / "rounds/001/score", partitioning=None).to_pylist()
    }
    ids = [row["response_id"] for row in samples]
    assert len(ids) == len(set(ids)) == 160 * 4
    for row in samples:
        reward = rewards[row["response_id"]]
        assert row["token_ids"]
        assert isinstance(row["text"], str)
        assert (reward["reward"] is not None and math.isfinite(reward["reward"])) or reward["drop_reason"]
    selfplay(["verify", run, "--deep"])
