"""A round on real vLLM, Ray and TRL, killed with SIGKILL while it trains, and resumed. Every stage of two rounds is killed by
`make chaos`, and a stop by SIGTERM while two engines sample (test_chaos.py).

Ends with the rows of an uninterrupted run of two engines, without a network where that can be arranged; what was committed before
is still there, byte for byte, and was not asked for again; nothing that the driver started outlives it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from selfplay.core.outcomes import EvaluateOutcome, TrainOutcome
from selfplay.store.run import Store
from tests.behaviour.real.conftest import CAN_BE_ALONE, committed_rows, wait_for
from tests.helpers.processes import check_gone, family_of, lines_of

GOLD = """
def gold(prompt, response, skill):
    return 0.1 * min(len(response.split()), 12) + response.endswith(".")
"""


def shards(run: Path) -> dict[str, str]:
    """Name and sha256 of every shard that is kept, committed or in work (a shard counts once its sidecar is there)."""
    found = {}
    for sidecar in [*run.glob(".work/*/.part-*.json"), *run.glob("rounds/*/*/.part-*.json")]:
        part = sidecar.with_name(sidecar.stem[1:] + ".parquet")
        stage = "/".join(part.parent.parts[-2:]) if "rounds" in part.parts else part.parent.name.replace("-", "/", 1)
        found[f"{stage}/{part.name}"] = hashlib.sha256(part.read_bytes()).hexdigest()
    return found


def kill(child: psutil.Popen) -> None:
    """SIGKILL, then check that everything the driver had started is gone within seconds."""
    family = family_of(child)
    assert len(lines_of(family)) >= 4, "a raylet, a gcs server and workers were expected"
    child.kill()
    child.wait()
    check_gone(family)


@pytest.fixture
def small(config: Path) -> Path:
    """One round with adapters and a gold judge of the user's."""
    (config.parent / "my_gold.py").write_text(GOLD)
    document = yaml.safe_load(config.read_text())
    document["rounds"] = 1
    document["prompts"]["per_round"] = 96
    document["sampling"]["shard_size"] = 4
    document["training"] |= {"epochs": 3, "learning_rate": 1e-2, "lora": {"r": 4, "alpha": 8}}
    document["evaluation"] |= {"gold": "my_gold:gold"}
    config.write_text(yaml.safe_dump(document))
    return config


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_while_training_loses_nothing(
    small: Path, world: Path, tmp_path: Path, selfplay: Callable[..., psutil.Popen]
) -> None:
    run = tmp_path / "run"
    child = selfplay(["run", small, "--run-dir", run], wait=False)
    wait_for(lambda: any((run / ".work/001-trainer").rglob(".SEAL.json")), child)
    before = shards(run)
    assert len([name for name in before if name.startswith("001/sample")]) == 24
    kill(child)
    assert before.items() <= shards(run).items(), "a shard that was kept before the kill is not there, or is another"
    selfplay(["resume", run])
    assert before.items() <= shards(run).items()
    store = Store.open(run)
    assert store.outcome(1, TrainOutcome).to_json()["resumed_from_step"] > 0, (
        "training began anew instead of from its checkpoint"
    )

    whole = tmp_path / "whole"
    selfplay(["run", small, "--run-dir", whole, "cluster.sampler.replicas=2"], alone=CAN_BE_ALONE)
    if CAN_BE_ALONE:  # root is needed for a network of its own; the rest of this test is for everybody
        assert "attempts to leave this machine: 0\n" in (tmp_path / "output.txt").read_text()
    assert committed_rows(run, 1) == committed_rows(whole, 1), "the rows depend on the kill or on the number of engines"
    loaded, *reloaded = [
        change
        for each in (store, Store.open(whole))
        for change in each.outcome(1, EvaluateOutcome).to_json()["weight_changes"]
    ]
    assert loaded["how"] == "loaded"
    assert [change["how"] for change in reloaded] == ["reloaded"] * 2, "the engines that sampled serve the new policy"
    for change in (loaded, *reloaded):
        assert change["canary_positions"] > 0 and change["canary_error"] < 1e-3
    policy = load_file(store.layout.stage(1, "train") / "policy/model.safetensors")
    assert policy.keys() == load_file(world / "policy/model.safetensors").keys(), "adapters are merged"
    assert {str(value.dtype) for value in policy.values()} == {"float32"}

    samples = pq.read_table(run / "rounds/001/sample", partitioning=None).to_pylist()
    rewards = {
        row["response_id"]: row for row in pq.read_table(run / "rounds/001/score", partitioning=None).to_pylist()
    }
    ids = [row["response_id"] for row in samples]
    assert len(ids) == len(set(ids)) == 96 * 4
    for row in samples:
        reward = rewards[row["response_id"]]
        assert row["token_ids"]
        assert isinstance(row["text"], str)
        assert (reward["reward"] is not None and math.isfinite(reward["reward"])) or reward["drop_reason"]
    selfplay(["verify", run, "--deep"])
