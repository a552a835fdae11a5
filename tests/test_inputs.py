"""What a run stands on is found, checked and pinned before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.errors import ConfigError, DataError, ModelError, SelfplayError
from selfplay.inputs import Inputs, columns_of, model_digest, resolve

WriteConfig = Callable[..., Path]


def inputs(path: Path, *overrides: str) -> Inputs:
    return resolve(load_config(path, overrides), path.parent)


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world to do harm to."""
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))


def config_of(world: Path, write_config: WriteConfig, **sections: Any) -> Path:
    places: dict[str, Any] = {
        "policy": {"model": str(world / "policy")},
        "prompts": {"source": str(world / "prompts.jsonl")},
        "reward": {"model": str(world / "reward_model")},
        "evaluation": {"source": str(world / "eval_prompts.jsonl")},
    }
    return write_config(**{**places, **sections})


def test_what_is_found(write_config: WriteConfig, tiny_world: Path) -> None:
    found = inputs(write_config())
    assert found.policy.folder == tiny_world / "policy"
    assert found.reward is not None
    assert found.reward.folder == tiny_world / "reward_model"
    assert (found.context_length, found.max_length) == (512, 512)
    assert (found.prompt_limit, found.evaluation_prompt_limit) == (504, 504)
    assert len(found.prompts.prompts) == 60
    assert columns_of(found.prompts) == {"topic"}
    assert {*found.pins} == {"policy.model", "prompts.source", "reward.model", "evaluation.source"}
    assert all(len(pin) == 64 for pin in found.pins.values())


@pytest.mark.parametrize("place", ["policy", "reward_model", "prompts.jsonl", "eval_prompts.jsonl"])
def test_what_is_not_there_is_named(world: Path, write_config: WriteConfig, place: str) -> None:
    path = config_of(world, write_config)
    target = world / place
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises((ModelError, DataError), match=str(target)) as error:
        inputs(path)
    assert error.value.exit_code == 2
    assert error.value.hint


def test_a_policy_in_the_place_of_a_reward_model_has_no_score_head(world: Path, write_config: WriteConfig) -> None:
    path = config_of(world, write_config, reward={"model": str(world / "policy")})
    with pytest.raises(ModelError, match="it has no score head"):
        inputs(path)


def test_a_reward_model_whose_head_was_not_saved(world: Path, write_config: WriteConfig) -> None:
    from safetensors.numpy import load_file, save_file

    weights = world / "reward_model/model.safetensors"
    tensors = {name: value for name, value in load_file(weights).items() if not name.startswith("score")}
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match="has no score head among its weights") as error:
        inputs(config_of(world, write_config))
    assert "random numbers" in error.value.hint


def test_a_missing_chat_template_must_be_said(world: Path, write_config: WriteConfig) -> None:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = world / "policy" / name
        if name.endswith("jinja"):
            file.unlink(missing_ok=True)
        else:
            settings = {key: value for key, value in json.loads(file.read_text()).items() if key != "chat_template"}
            file.write_text(json.dumps(settings))
    path = config_of(world, write_config)
    with pytest.raises(ModelError, match="has no chat template") as error:
        inputs(path)
    assert "chat_template: none" in error.value.hint
    assert "policy.chat_template" in inputs(path, "policy.chat_template=none").pins


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.max_tokens=512"], "max_tokens 512 leaves no room for a prompt in 512 tokens"),
        (["training.max_length=8"], "max_tokens 8 leaves no room for a prompt in 8 tokens"),
        (["evaluation.max_tokens=600"], "max_tokens 600 leaves no room for a prompt in 512 tokens"),
        (["training.max_length=513"], r"training\.max_length is 513, but the context has 512 tokens"),
        (["sampling.engine.max_model_len=1024"], r"max_model_len is 1024; the policy has positions for 512 tokens"),
        (["sampling.engine.max_model_len=64", "training.max_length=65"], "the context has 64 tokens"),
    ],
)
def test_lengths_that_cannot_be(write_config: WriteConfig, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        inputs(write_config(), *overrides)
    assert "ower" in error.value.hint


def test_lengths(write_config: WriteConfig) -> None:
    found = inputs(
        write_config(), "sampling.engine.max_model_len=128", "training.max_length=64", "evaluation.max_tokens=20"
    )
    assert (found.context_length, found.max_length) == (128, 64)
    # the evaluation is never trained on: its prompts have the whole context
    assert (found.prompt_limit, found.evaluation_prompt_limit) == (56, 108)


def test_pins_follow_the_content_and_not_the_place(world: Path, write_config: WriteConfig, tmp_path: Path) -> None:
    first = inputs(config_of(world, write_config))
    moved = world.rename(tmp_path / "elsewhere")
    second = inputs(config_of(moved, write_config))
    assert second.pins == first.pins
    settings = load_config(config_of(moved, write_config))
    assert first.fingerprint(settings) == second.fingerprint(settings)
    for pin, file in (
        ("policy.model", "policy/config.json"),
        ("reward.model", "reward_model/tokenizer_config.json"),
        ("prompts.source", "prompts.jsonl"),
        ("evaluation.source", "eval_prompts.jsonl"),
    ):
        text = (moved / file).read_text()
        (moved / file).write_text(text.replace("number 1:", "number one:") if file.endswith("jsonl") else text + " \n")
        third = inputs(config_of(moved, write_config))
        assert {name for name in first.pins if third.pins[name] != first.pins[name]} == {pin}
        assert third.fingerprint(settings) != first.fingerprint(settings)
        (moved / file).write_text(text)


def test_functions_are_pinned_by_their_source(write_config: WriteConfig, tmp_path: Path) -> None:
    source = tmp_path / "rewards.py"
    source.write_text("def reward(prompt, response):\n    return len(response)\n")
    path = write_config(reward={"model": None, "function": "rewards.py:reward"})
    first = inputs(path)
    assert first.reward is None
    source.write_text("def reward(prompt, response):\n    return -len(response)\n")
    second = inputs(path)
    assert first.pins.keys() == second.pins.keys()
    assert first.pins["reward.function"] != second.pins["reward.function"]


@pytest.mark.parametrize("function", ["absent.py:reward", "rewards.py:absent"])
def test_a_function_that_is_not_there(write_config: WriteConfig, tmp_path: Path, function: str) -> None:
    (tmp_path / "rewards.py").write_text("def reward(prompt, response):\n    return 0.0\n")
    with pytest.raises(SelfplayError, match="absent") as error:
        inputs(write_config(reward={"model": None, "function": function}))
    assert error.value.exit_code == 2


def test_hidden_files_and_caches_are_no_part_of_a_model(world: Path) -> None:
    before = model_digest(world / "policy")
    (world / "policy/.cache").mkdir()
    (world / "policy/.cache/lock").touch()
    assert model_digest(world / "policy") == before
    (world / "policy/README.md").touch()
    assert model_digest(world / "policy") != before
