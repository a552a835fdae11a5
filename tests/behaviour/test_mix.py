"""A pool of mixed origin: responses of a second model among the policy's (stage *sample* on fakes)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import BackendError, ConfigError
from selfplay.core.outcomes import SampleOutcome
from selfplay.execution.progress import Reporter
from selfplay.inputs.pinning import pin
from selfplay.run import driver
from selfplay.run.stages.sample import MIXED
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeSampler

WriteConfig = Callable[..., Path]


@pytest.fixture
def second_model(tiny_world: Path, tmp_path: Path) -> Path:
    """The policy with other weights."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "second"
    shutil.copytree(tiny_world / "policy", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v + np.float32(0.01) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def prepare(config: Path, run_dir: Path) -> driver.Prepared:
    return driver.preflight(load_config(config, []), config.parent, run_dir)


def start(config: Path, run_dir: Path, fakes: Fakes) -> Store:
    return driver.run(prepare(config, run_dir), config.read_text(), [], Reporter(quiet=True), workers=fakes)


def mixed(write_config: WriteConfig, folder: Path, **mix: Any) -> Path:
    return write_config(sampling={"shard_size": 6, "mix": {"model": str(folder), **mix}}, rounds=1)


def test_half_of_the_prompts_get_one_response_of_the_second_model(
    write_config: WriteConfig, second_model: Path, tmp_path: Path
) -> None:
    fakes = Fakes()
    store = start(mixed(write_config, second_model, share=0.5), tmp_path / "run", fakes)
    rows = store.table(1, "sample").to_pylist()
    assert len(rows) == 80 and len({row["response_id"] for row in rows}) == 80
    theirs = [row for row in rows if row["policy_round"] is None]
    assert 3 <= len(theirs) <= 17
    assert {row["response_index"] for row in theirs} == {3}
    by_prompt: dict[str, list[int]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row["response_index"])
    assert all(indices == [0, 1, 2, 3] for indices in by_prompt.values())
    assert store.outcome(1, SampleOutcome).to_json()["num_mixed"] == len(theirs)
    # the second model was served first, then the policy: the engine ends on the model of the round
    pins = json.loads(store.config_file("pins.json"))
    first = [digest for digest in fakes.sampler.loaded if digest in pins.values()]
    assert first.index(pins["sampling.mix.model"]) > first.index(pins["policy.model"])  # round 0 evaluates the policy
    after = fakes.sampler.loaded[fakes.sampler.loaded.index(pins["sampling.mix.model"]) :]
    assert after[1] == pins["policy.model"]


def test_a_killed_sampling_adopts_the_second_models_shards(
    write_config: WriteConfig, second_model: Path, tmp_path: Path
) -> None:
    class Failing(FakeSampler):
        calls = 0

        def sample(self, requests: Any, settings: Any) -> Any:
            Failing.calls += 1
            if Failing.calls == 4 + 4 + 2:  # evaluation 2 x 2 shards, second model 4 shards, the policy 1 shard
                raise BackendError("engine gone", "")
            return super().sample(requests, settings)

    config = mixed(write_config, second_model)
    whole = start(config, tmp_path / "whole", Fakes()).table(1, "sample")
    fakes = Fakes()
    fakes.sampler = Failing()
    with pytest.raises(BackendError):
        start(config, tmp_path / "run", fakes)
    store = Store.open(tmp_path / "run")
    work = store.layout.stage_work(1, "sample")
    assert len(list((work / MIXED).glob("*.parquet"))) == 4
    prepared = prepare(config, tmp_path / "run")
    again = Fakes()
    driver.resume(
        store,
        prepared,
        prepared.config,
        json.loads(store.config_file("pins.json")),
        Reporter(quiet=True),
        workers=again,
    )
    assert Store.open(tmp_path / "run").table(1, "sample").equals(whole)
    assert json.loads(store.config_file("pins.json"))["sampling.mix.model"] not in again.sampler.loaded


def test_another_tokenizer_is_refused(write_config: WriteConfig, second_model: Path, tmp_path: Path) -> None:
    path = second_model / "tokenizer.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(ConfigError, match="differs from the policy in its tokenizer"):
        prepare(mixed(write_config, second_model), tmp_path / "run")


def test_more_mixed_responses_than_responses_are_refused(write_config: WriteConfig, second_model: Path) -> None:
    with pytest.raises(ConfigError, match="5, but a prompt has 4"):
        load_config(mixed(write_config, second_model, num_responses=5), [])


def test_code_of_the_second_model_is_listed_with_the_policys(
    write_config: WriteConfig,
    tiny_world: Path,
    second_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine serves it in the policy's place, and with the policy's trust."""
    (second_model / "own.py").write_text("raise SystemExit('this must not run')\n")
    snapshot = shutil.copytree(tiny_world / "policy", tmp_path / "snapshots" / ("a" * 40))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    policy = {"model": "org/policy", "revision": "a" * 40, "trust_remote_code": True}
    config = write_config(policy=policy, sampling={"mix": {"model": str(second_model)}}, rounds=1)
    found = {code.setting: code for code in pin(load_config(config, []), config.parent).code}
    assert [path.name for path, _ in found["sampling.mix.model"].files] == ["own.py"]
