"""The long form of test_kills.py (`make chaos`): the real stack killed in every stage of two rounds, stopped by SIGTERM in all
the ways of Slurm and Kubernetes, and ended by an error; nothing outlives the driver.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from selfplay.core.stages import STAGE_NAMES
from selfplay.store.run import Store
from tests.behaviour.real.conftest import PATIENCE, committed_rows, num_kept, wait_for
from tests.helpers.processes import check_gone, family_of, signal_everybody

# kills in each stage of each of the two rounds
PER_STAGE = int(os.environ.get("SELFPLAY_REAL_KILLS", "1"))


def state_of(run: Path) -> str:
    """As the command says it."""
    answer = subprocess.run(
        [sys.executable, "-m", "selfplay", "status", run, "--json"], capture_output=True, text=True, check=False
    )
    return str(json.loads(answer.stdout)["state"])


def has_begun(run: Path, number: int, stage: str, attempts: int) -> bool:
    """Whether an attempt later than the first `attempts` has come to this stage."""
    for events in sorted(run.glob("attempts/*/events.jsonl"))[attempts:]:
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "stage" and (event["round"], event["stage"]) == (number, stage):
                return True
    return False


def acknowledged(run: Path) -> dict[str, bytes]:
    """Every shard that is kept, by stage and name."""
    found = {}
    for sidecar in [*run.glob(".work/[0-9]*/.part-*.json"), *run.glob("rounds/*/*/.part-*.json")]:
        parts = sidecar.relative_to(run).parts
        stage = parts[1].replace("-", "/", 1) if parts[0] == ".work" else "/".join(parts[1:3])
        found[f"{stage}/{sidecar.name}"] = sidecar.read_bytes()
    return found


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_kills_in_every_stage_of_two_rounds(config: Path, tmp_path: Path, selfplay: Callable[..., Any]) -> None:
    run, rng, done, before = tmp_path / "run", random.Random(0), [], {}
    moments = [(number, stage) for number in (1, 2) for stage in STAGE_NAMES for _ in range(PER_STAGE)]
    for number, stage in moments:
        made = (run / "RUN.json").is_file()
        if made and Store.open(run).is_committed(number, stage):
            continue  # the stage before was over before its kill came
        attempts = len(list(run.glob("attempts/*")))
        child = selfplay(["resume", run] if made else ["run", config, "--run-dir", run], wait=False)
        deadline = time.monotonic() + PATIENCE
        while not has_begun(run, number, stage, attempts):
            assert child.poll() is None, (tmp_path / "output.txt").read_text()[-3000:]
            assert time.monotonic() < deadline, f"the run did not come to round {number} {stage}"
            time.sleep(0.002)
        # the quick stages are over in tens of milliseconds
        time.sleep(rng.uniform(0, 0.03 if stage in ("prompts", "pair", "select") else 1.0))
        before |= acknowledged(run)
        family = family_of(child)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        check_gone(family)
        assert state_of(run) == "interrupted"
        assert before.items() <= acknowledged(run).items()
        selfplay(["verify", run])
        done.append((number, stage))
    print(f"\nkilled in: {', '.join(f'{number} {stage}' for number, stage in done)}")
    assert {stage for _, stage in done} >= {"sample", "score", "logprobs", "train", "evaluate"}
    assert len(done) >= 0.7 * len(moments)
    selfplay(["resume", run])
    assert before.items() <= acknowledged(run).items()

    whole = tmp_path / "whole"
    selfplay(["run", config, "--run-dir", whole])
    assert committed_rows(run, 2) == committed_rows(whole, 2)
    for number in (1, 2):
        columns = {"sample": "response_id", "select": "pair_id", "prompts": "prompt_id"}
        for stage, column in columns.items():
            ids = [
                pq.read_table(root / f"rounds/{number:03d}/{stage}", partitioning=None)[column].to_pylist()
                for root in (run, whole)
            ]
            assert ids[0] == ids[1]
            assert len(set(ids[0])) == len(ids[0]) > 0
    selfplay(["verify", run, "--deep"])

    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run / "rounds/002/train/policy")
    logits = model(torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()


def start_sampling(arguments: list[Any], run: Path, selfplay: Callable[..., Any]) -> Any:
    """A driver that has kept a shard of round 1, beside those that the attempts before it kept."""
    before = num_kept(run, "001-sample")
    child = selfplay(arguments, wait=False)
    wait_for(lambda: num_kept(run, "001-sample") > before, child)
    return child


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_sigterm_in_all_its_ways(config: Path, tmp_path: Path, selfplay: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    document = yaml.safe_load(config.read_text())
    document |= {"rounds": 1, "cluster": {"sampler": {"replicas": 2}}}
    config.write_text(yaml.safe_dump(document))

    # once, to everybody: what is under way is kept
    child = start_sampling(["run", config, "--run-dir", run], run, selfplay)
    began = time.monotonic()
    family = signal_everybody(child, signal.SIGTERM)
    assert child.wait() == 143
    assert time.monotonic() - began < 90
    check_gone(family)
    assert state_of(run) == "interrupted"
    assert "stopped on request" in (tmp_path / "output.txt").read_text()

    # twice, to everybody
    child = start_sampling(["resume", run, "cluster.sampler.replicas=1"], run, selfplay)
    family = signal_everybody(child, signal.SIGTERM)
    signal_everybody(child, signal.SIGTERM)
    assert child.wait() == 143
    check_gone(family)

    # with a deadline that runs out at once
    child = start_sampling(["resume", run, "--grace", "0.1"], run, selfplay)
    family = signal_everybody(child, signal.SIGTERM)
    assert child.wait() == 143
    check_gone(family)

    # SIGKILL to everybody follows, as when the batch system's patience is over
    child = start_sampling(["resume", run], run, selfplay)
    signal_everybody(child, signal.SIGTERM)
    family = signal_everybody(child, signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 143)
    check_gone(family)
    assert state_of(run) == "interrupted"

    selfplay(["resume", run])
    selfplay(["verify", run, "--deep"])
    assert state_of(run) == "complete"
    said = (tmp_path / "output.txt").read_text()
    assert "died" not in said
    assert "unexpected" not in said


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_nothing_outlives_an_error(config: Path, tmp_path: Path, selfplay: Callable[..., Any]) -> None:
    (tmp_path / "my_rewards.py").write_text("def reward(prompt, response):\n    raise ValueError('no reward today')\n")
    document = yaml.safe_load(config.read_text())
    document |= {"reward": {"function": "my_rewards:reward"}, "rounds": 1, "evaluation": None}
    config.write_text(yaml.safe_dump(document))
    run = tmp_path / "run"
    child = start_sampling(["run", config, "--run-dir", run], run, selfplay)
    family = family_of(child)
    assert child.wait() == 1
    check_gone(family)
    assert state_of(run) == "failed"
