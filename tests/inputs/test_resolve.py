"""What a run stands on is found, checked and pinned before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ConfigError, DataError, ModelError, SelfplayError
from selfplay.inputs.models.files import model_digest
from selfplay.inputs.resolve import Inputs, columns_of, resolve
from selfplay.run import driver
from selfplay.run.worker_specs import worker_specs

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
    assert found.rewards["reward"].folder == tiny_world / "reward_model"
    assert (found.context_length, found.max_length) == (512, 512)
    assert (found.prompt_limit, found.evaluation_prompt_limit) == (504, 504)
    assert len(found.prompts.prompts) == 60
    assert columns_of(found.prompts, "prompt") == {"topic"}
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
        (["sampling.engine={max_model_len: abc}"], r"max_model_len is 'abc', which is not a number of tokens"),
        (["sampling.engine.max_model_len=true"], "max_model_len is True, which is not a number of tokens"),
        (["sampling.engine.max_model_len=1024"], r"max_model_len is 1024; the policy has positions for 512 tokens"),
        (["sampling.engine.max_model_len=64", "training.max_length=65"], "the context has 64 tokens"),
    ],
)
def test_lengths_that_cannot_be(write_config: WriteConfig, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        inputs(write_config(), *overrides)
    assert "ower" in error.value.hint or "leave it out" in error.value.hint


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
    assert first.rewards == {}
    source.write_text("def reward(prompt, response):\n    return -len(response)\n")
    second = inputs(path)
    assert first.pins.keys() == second.pins.keys()
    assert first.pins["reward.function"] != second.pins["reward.function"]


def test_parts_of_a_reward_are_found_checked_and_pinned_each(
    world: Path, write_config: WriteConfig, tmp_path: Path
) -> None:
    functions(tmp_path, rewards="def short(prompt, response):\n    return -len(response)\n")
    model = {"model": str(world / "reward_model")}
    sections: dict[str, Any] = {"helpful": model, "honest": model, "short": {"function": "rewards.py:short"}}

    def found(**others: Any) -> Inputs:
        return inputs(config_of(world, write_config, reward={"model": None, "parts": {**sections, **others}}))

    first = found()
    assert {name: model.folder for name, model in first.rewards.items()} == {
        "reward.parts.helpful": world / "reward_model", "reward.parts.honest": world / "reward_model",
    }  # fmt: skip
    assert {*first.reward_infos} == {*first.rewards}
    assert {name for name in first.pins if name.startswith("reward")} == {
        "reward.parts.helpful.model", "reward.parts.honest.model", "reward.parts.short.function",
    }  # fmt: skip
    copy = shutil.copytree(world / "reward_model", world / "copy")
    assert found(honest={"model": str(copy)}).pins == first.pins
    (copy / "tokenizer_config.json").write_text((copy / "tokenizer_config.json").read_text() + " ")
    functions(tmp_path, rewards="def short(prompt, response):\n    return 0\n")
    second = found(honest={"model": str(copy)})
    assert {name for name in first.pins if first.pins[name] != second.pins[name]} == {
        "reward.parts.honest.model", "reward.parts.short.function",
    }  # fmt: skip
    with pytest.raises(ModelError, match="it has no score head"):
        found(honest={"model": str(world / "policy")})
    functions(tmp_path, needs=NEEDS_ANSWER)
    with pytest.raises(
        ConfigError, match=r"needs\.py:reward requires 'answer', which is not a column of prompts\.source"
    ):
        found(honest={"function": "needs.py:reward"})


def test_every_part_of_a_reward_has_a_scorer_of_its_own(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path
) -> None:
    functions(tmp_path, rewards="def short(prompt, response):\n    return -len(response)\n")
    model = {"model": str(tiny_world / "reward_model"), "sees": "full", "max_length": 99}
    sections: dict[str, Any] = {"helpful": model, "short": {"function": "rewards.py:short", "batched": True}}
    path = write_config(reward={"model": None, "parts": sections, "batch_tokens": 77})
    specs = worker_specs(load_config(path), inputs(path))
    assert {*specs} == {"sampler", "logprobs", "trainer", "reward.parts.helpful", "reward.parts.short"}
    helpful, short = specs["reward.parts.helpful"], specs["reward.parts.short"]
    assert helpful.target.endswith(":RewardEngines")
    assert helpful.kwargs["model"] == str(tiny_world / "reward_model")
    assert (helpful.kwargs["sees"], helpful.kwargs["max_length"], helpful.kwargs["batch_tokens"]) == ("full", 99, 77)
    assert short.target.endswith(":RewardFunction")
    assert short.kwargs["batched"] is True
    path = write_config(reward={"engine": "transformers"})
    assert worker_specs(load_config(path), inputs(path))["reward"].target.endswith(":RewardModel")


@pytest.mark.parametrize("function", ["absent.py:reward", "rewards.py:absent"])
def test_a_function_that_is_not_there(write_config: WriteConfig, tmp_path: Path, function: str) -> None:
    (tmp_path / "rewards.py").write_text("def reward(prompt, response):\n    return 0.0\n")
    with pytest.raises(SelfplayError, match="absent") as error:
        inputs(write_config(reward={"model": None, "function": function}))
    assert error.value.exit_code == 2


def test_only_what_loading_reads_is_a_part_of_a_model(world: Path) -> None:
    policy = world / "policy"
    before = model_digest(policy)
    for name in (
        ".cache/lock.json",
        "original/weights.safetensors",
        "README.md",
        "README.txt",
        "optimizer.pt",
        ".x.json",
    ):
        (policy / name).parent.mkdir(exist_ok=True)
        (policy / name).write_text("something")
    assert model_digest(policy) == before
    found = {before}
    for name in ("chat_template.jinja", "merges.txt", "modeling_own.py", "added_tokens.json", "tokenizer.model"):
        (policy / name).write_text("something else")
        found.add(model_digest(policy))
    assert len(found) == 6


def functions(folder: Path, **code: str) -> None:
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)


def with_column(world: Path, name: str, column: str, rows: Iterable[int] | None = None) -> None:
    """Add a column to (some) rows of a prompt file."""
    path = world / f"{name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for row in range(len(lines)) if rows is None else rows:
        lines[row][column] = "4"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


NEEDS_ANSWER = "def reward(prompt, response, answer):\n    return float(response == answer)\n"


@pytest.mark.parametrize("lacks", ["prompts", "eval_prompts"])
def test_a_reward_function_needs_its_columns_in_both_sources(
    world: Path, write_config: WriteConfig, tmp_path: Path, lacks: str
) -> None:
    functions(tmp_path, rewards=NEEDS_ANSWER)
    with_column(world, "prompts" if lacks == "eval_prompts" else "eval_prompts", "answer")
    path = config_of(world, write_config, reward={"model": None, "function": "rewards.py:reward"})
    section = "evaluation" if lacks == "eval_prompts" else "prompts"
    with pytest.raises(
        ConfigError, match=rf"requires 'answer', which is not a column of {section}\.source \(.*{lacks}"
    ):
        inputs(path)
    with_column(world, lacks, "answer")
    inputs(path)


def test_a_judge_needs_its_columns_on_held_out_prompts_only(
    world: Path, write_config: WriteConfig, tmp_path: Path
) -> None:
    functions(tmp_path, gold=NEEDS_ANSWER)
    path = config_of(
        world, write_config, evaluation={"source": str(world / "eval_prompts.jsonl"), "gold": "gold.py:reward"}
    )
    with pytest.raises(ConfigError, match=r"requires 'answer', which is not a column of evaluation\.source"):
        inputs(path)
    with_column(world, "eval_prompts", "answer")
    found = inputs(path)
    assert (found.gold_on_training, found.gold_lacks) == (False, ("answer",))
    with_column(world, "prompts", "answer")
    found = inputs(path)
    assert (found.gold_on_training, found.gold_lacks) == (True, ())


def test_a_column_may_first_come_late_in_the_file(world: Path, write_config: WriteConfig) -> None:
    source = world / "prompts.jsonl"
    source.write_text(source.read_text() * 3)
    with_column(world, "prompts", "answer", [179])
    found = inputs(config_of(world, write_config))
    assert columns_of(found.prompts, "prompt") == {"topic", "answer"}
    assert columns_of(found.prompts, "topic") == {"prompt", "answer"}


def test_what_a_users_module_prints_is_no_output(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    functions(tmp_path, loud="print('loading')\ndef reward(prompt, response):\n    return 0.0\n")
    inputs(write_config(reward={"model": None, "function": "loud.py:reward"}, evaluation={"gold": "loud.py:reward"}))
    said = capsys.readouterr()
    assert said.out == ""
    assert "loading" in said.err


def test_a_users_module_that_ends_the_program_is_named(write_config: WriteConfig, tmp_path: Path) -> None:
    functions(tmp_path, ends="import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigError, match=r"importing .*ends\.py failed: SystemExit: 0"):
        inputs(write_config(reward={"model": None, "function": "ends.py:reward"}))


def test_a_users_module_that_changes_folders_takes_the_run_along_nowhere(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    functions(tmp_path, moves="import os\nos.chdir('/')\ndef reward(prompt, response):\n    return 0.0\n")
    config = load_config(write_config(reward={"model": None, "function": "moves.py:reward"}))
    driver.preflight(config, tmp_path, Path("runs/new"))
    assert Path.cwd() == tmp_path


def test_a_hub_name_keeps_the_commit_that_it_was_resolved_to(
    world: Path, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    first, second = "a" * 40, "b" * 40
    for commit in (first, second):
        shutil.copytree(world / "policy", world / "snapshots" / commit)
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns
        # the branch has moved on: whoever names no commit gets the second
        return str(world / "snapshots" / (revision if revision and len(revision) == 40 else second))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    path = config_of(world, write_config, policy={"model": "org/policy"})
    config = load_config(path)
    before = {"policy.model": f"org/policy@{first}"}
    found = resolve(config, path.parent, before)
    assert asked == [("org/policy", first)]
    assert found.policy.folder.name == first
    assert found.revisions == before
    # a run that begins notes what it got; folders have no revision
    assert resolve(config, path.parent).revisions == {"policy.model": f"org/policy@{second}"}
    assert inputs(config_of(world, write_config)).revisions == {}
    # what was noted of another name says nothing of this one; of a folder that took the name's place neither
    assert resolve(config, path.parent, {"policy.model": f"org/other@{first}"}).policy.folder.name == second
    local = config_of(world, write_config)
    assert resolve(load_config(local), local.parent, before).policy.folder == world / "policy"
    branch = config_of(world, write_config, policy={"model": "org/policy", "revision": "main"})
    assert resolve(load_config(branch), branch.parent, before).policy.folder.name == first
    # a part of a reward is resolved and kept by its own name
    for commit in (first, second):
        shutil.rmtree(world / "snapshots" / commit)
        shutil.copytree(world / "reward_model", world / "snapshots" / commit)
    parts = config_of(world, write_config, reward={"model": None, "parts": {"helpful": {"model": "org/reward"}}})
    before = {"reward.parts.helpful.model": f"org/reward@{first}"}
    found = resolve(load_config(parts), parts.parent, before)
    assert found.revisions == before
    assert found.rewards["reward.parts.helpful"].folder.name == first
