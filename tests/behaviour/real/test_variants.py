"""The loop on real vLLM, Ray and TRL in its other forms: adapters, SimPO, a reward function, two engines, SIGTERM, and without a
network."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from selfplay.core.outcomes import EvaluateOutcome, SampleOutcome, TrainOutcome
from selfplay.store.run import Store
from tests.behaviour.real.conftest import CAN_BE_ALONE, FEW_SLOTS
from tests.helpers.processes import check_gone, signal_everybody

REWARD = """
def reward(prompt, response, skill):
    return 0.1 * min(len(response.split()), 12) + response.endswith(".")
"""


def configure(world: Path, folder: Path, **sections: Any) -> Path:
    (folder / "my_rewards.py").write_text(REWARD)
    document: dict[str, Any] = {
        "policy": {"model": str(world / "policy")},
        "prompts": {"source": str(world / "prompts.jsonl"), "per_round": 96},
        "sampling": {"num_responses": 4, "max_tokens": 48, "shard_size": 4},
        "reward": {"function": "my_rewards:reward"},
        "rounds": 1,
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_adapters_a_function_two_engines_and_sigterm(world: Path, tmp_path: Path, selfplay: Any) -> None:
    config = configure(
        world,
        tmp_path,
        training={"beta": 0.1, "learning_rate": 1e-2, "batch_size": 8, "lora": {"r": 4, "alpha": 8}},
        evaluation={"source": str(world / "eval_prompts.jsonl"), "num_prompts": 8},
        cluster={"sampler": {"replicas": 2}},
        sampling={"num_responses": 4, "max_tokens": 48, "shard_size": 4, "engine": FEW_SLOTS},
    )
    run = tmp_path / "run"
    child = selfplay(["run", config, "--run-dir", run], wait=False)
    work = run / ".work/001-sample"
    deadline = time.monotonic() + 200
    while not list(work.glob(".part-*.json")):
        assert child.poll() is None, "the run ended before the signal"
        assert time.monotonic() < deadline, "the run did not come to sampling"
        time.sleep(0.005)
    family = signal_everybody(child, signal.SIGTERM)
    assert child.wait(timeout=60) == 143
    check_gone(family)
    store = Store.open(run)
    end = store.attempt_documents()[-1]["end"]
    assert (end["outcome"], end["message"]) == ("interrupted", "stopped as asked; what was committed is kept")
    kept = {path.name: path.read_bytes() for path in work.glob("part-*.parquet")}
    assert 0 < len(kept) < 24

    selfplay(["resume", run])
    store = Store.open(run)
    folder = store.layout.stage(1, "sample")
    assert kept == {name: (folder / name).read_bytes() for name in kept}
    assert len(store.outcome(1, SampleOutcome).to_json()["engines"]) == 2
    before = load_file(world / "policy/model.safetensors")
    after = load_file(store.layout.stage(1, "train") / "policy/model.safetensors")
    assert after.keys() == before.keys(), "adapters are merged"
    assert {str(value.dtype) for value in after.values()} == {"float32"}
    changes = store.outcome(1, EvaluateOutcome).to_json()["weight_changes"]
    assert [change["how"] for change in changes] == ["reloaded"] * 2
    assert all(change["canary_positions"] > 0 and change["canary_error"] < 1e-3 for change in changes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_simpo_by_explicit_margin_without_an_evaluation(world: Path, tmp_path: Path, selfplay: Any) -> None:
    config = configure(
        world,
        tmp_path,
        selection={"metric": "explicit_margin", "keep": 32},
        training={
            "loss": "simpo", "beta": 2.0, "simpo_gamma_beta_ratio": 0.5, "learning_rate": 1e-3, "batch_size": 8,
        },
    )  # fmt: skip
    run = tmp_path / "run"
    selfplay(["run", config, "--run-dir", run], alone=CAN_BE_ALONE)
    if CAN_BE_ALONE:  # root is needed for a network of its own; the rest of this test is for everybody
        assert "attempts to leave this machine: 0\n" in (tmp_path / "output.txt").read_text()
    store = Store.open(run)
    pairs = [row for row in store.table(1, "select").to_pylist() if row["kept"]]
    assert len(pairs) == 32
    dropped = [
        row["explicit_margin"] for row in store.table(1, "select").to_pylist() if row["drop_reason"] == "not_selected"
    ]
    assert min(row["explicit_margin"] for row in pairs) >= max(dropped, default=0)
    assert {row["reference_logp_chosen"] for row in pairs} == {None}
    metrics = store.outcome(1, TrainOutcome).to_json()
    assert metrics["optimizer_steps"] == 4
    assert metrics["expected_first_loss"] is None
    assert any("experimental" in note for note in metrics["notes"])
    assert store.outcome(1, EvaluateOutcome).to_json()["weight_changes"][0]["how"] == "reloaded"
