"""Real input: the GSM8K questions through two rounds with a Python-function reward, killed in the middle of sampling and resumed.

The small world's policy knows no arithmetic, so rewards are poor; the machinery may not be.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfplay.core.outcomes import PromptsOutcome, SampleOutcome, TrainOutcome
from selfplay.store.run import Store
from tests.behaviour.real.conftest import FEW_SLOTS, num_kept, wait_for

DATA = Path(os.environ.get("SELFPLAY_REAL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "gsm8k"

REWARD = """
import re

def reward(prompt, response, answer):
    wanted = answer.split("####")[-1].strip().replace(",", "")
    numbers = re.findall(r"-?[0-9]+", response.replace(",", ""))
    return 0.3 * bool(numbers) + (numbers[-1:] == [wanted]) + 0.01 * min(len(response.split()), 20)
"""


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the GSM8K questions are not at {DATA}")
def test_gsm8k_killed_while_sampling_loses_and_doubles_nothing(world: Path, tmp_path: Path, selfplay: Any) -> None:
    (tmp_path / "my_rewards.py").write_text(REWARD)
    document = {
        "policy": {"model": str(world / "policy")},
        "prompts": {"source": str(DATA / "train.jsonl"), "column": "question", "per_round": 160},
        "sampling": {"num_responses": 4, "max_tokens": 96, "shard_size": 8, "engine": FEW_SLOTS},
        "reward": {"function": "my_rewards:reward"},
        "selection": {"keep": 0.5},
        "training": {"beta": 0.1, "learning_rate": 1e-4, "batch_size": 16},
        "evaluation": {"source": str(DATA / "test.jsonl"), "column": "question", "num_prompts": 16},
        "rounds": 2,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    run = tmp_path / "run"
    child = selfplay(["run", tmp_path / "config.yaml", "--run-dir", run], wait=False)
    work = run / ".work/001-sample"
    wait_for(lambda: num_kept(run, "001-sample") >= 3, child)
    child.kill()
    child.wait()
    kept = [sidecar.with_name(sidecar.stem[1:] + ".parquet") for sidecar in work.glob(".part-*.json")]
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}

    selfplay(["resume", run])
    store = Store.open(run)
    folder = store.layout.stage(1, "sample")
    assert before == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in before}
    assert store.outcome(1, SampleOutcome).to_json()["adopted_shards"] == len(before) < 20
    for number in (1, 2):
        prompts = store.outcome(number, PromptsOutcome).to_json()
        assert prompts["num_prompts"] == 160
        assert prompts["num_admitted"] >= 0.99 * 160
        responses = store.table(number, "sample")
        ids = responses["response_id"].to_pylist()
        assert len(ids) == len(set(ids)) == prompts["num_admitted"] * 4
        rewards = store.table(number, "score").to_pylist()
        assert [row["response_id"] for row in rewards] == ids
        assert all(row["drop_reason"] or math.isfinite(row["reward"]) for row in rewards)
        assert responses["finish_reason"].to_pylist().count("length") <= 0.8 * len(ids)
        assert store.outcome(number, TrainOutcome).to_json()["optimizer_steps"] >= 1
    first, second = (set(store.table(number, "prompts")["prompt_id"].to_pylist()) for number in (1, 2))
    assert not first & second
