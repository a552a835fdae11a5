"""The check of a run's conversations: what the plan says, and what stops a run with exit code 2 before it begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ConfigError, ModelError
from selfplay.inputs.resolve import resolve
from selfplay.run import driver
from tests.helpers.tiny import CHAT_TEMPLATE

WriteConfig = Callable[..., Path]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
)


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))


@pytest.fixture
def plan(world: Path, write_config: WriteConfig) -> Callable[..., list[str]]:
    """The lines of the plan with the copy of the world."""

    def lines(**policy: Any) -> list[str]:
        models = {
            "policy": {"model": str(world / "policy"), **policy},
            "reward": {"model": str(world / "reward_model")},
        }
        path = write_config(**models)
        return driver.preflight(load_config(path, []), path.parent, path.parent / "run").plan.lines()

    return lines


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_nothing_is_said_of_what_is_right(plan: Callable[..., list[str]]) -> None:
    assert not [line for line in plan() if "policy.model" in line or "reward.model" in line]


def test_the_policys_template_is_named(world: Path, plan: Callable[..., list[str]]) -> None:
    template = world / "policy/chat_template.jinja"
    template.write_text(NO_SYSTEM)
    assert plan()
    with pytest.raises(
        ModelError,
        match=r"policy.model: .*leaves out the system message 'Be kind.' \(the first prompt of prompts.source, row 1",
    ):
        plan(system_prompt="Be kind.")
    template.write_text("{{ messages[0]['content'] + 1 }}")
    with pytest.raises(ModelError, match=r"policy.model: the chat template fails in line 1"):
        plan()


def test_a_reward_model_that_ignores_the_system_prompt_is_said(world: Path, plan: Callable[..., list[str]]) -> None:
    (world / "reward_model/chat_template.jinja").write_text(NO_SYSTEM)
    assert any(
        "warning: reward.model: the chat template leaves out the system message" in line
        for line in plan(system_prompt="Be kind.")
    )


def test_the_form_of_thinking_is_said(world: Path, plan: Callable[..., list[str]]) -> None:
    edit_tokens(world / "policy", "<think>", "</think>")
    opened = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")
    (world / "policy/chat_template.jinja").write_text(opened)
    (note,) = [line for line in plan() if "sees" in line]
    assert (
        note.startswith("note: reward.sees: final: ") and "<think> and </think>" in note and "opens the first" in note
    )


def edit_tokens(folder: Path, *tokens: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("generation", "tokenizer", "model", "stops"),
    [
        ({"eos_token_id": [None, 257, 7]}, {}, {}, (7, 257)),
        ({"eos_token_id": None}, {"eos_token": None}, {"eos_token_id": [9]}, (9,)),
        ({"eos_token_id": 8}, {"eos_token": None}, {}, (8,)),
        ({"temperature": 0.1, "repetition_penalty": 3.0}, {}, {"eos_token_id": None}, (257,)),
    ],
)
def test_end_tokens(
    world: Path, write_config: WriteConfig, generation: Any, tokenizer: Any, model: Any, stops: Any
) -> None:
    (world / "policy/generation_config.json").write_text(json.dumps(generation))
    edit(world / "policy/tokenizer_config.json", **tokenizer)
    edit(world / "policy/config.json", **model)
    path = write_config(policy={"model": str(world / "policy")})
    assert resolve(load_config(path, []), path.parent).stop_token_ids == stops


def test_end_tokens_that_end_nothing_are_said(world: Path, plan: Callable[..., list[str]]) -> None:
    generation = world / "policy/generation_config.json"
    generation.write_text('{"eos_token_id": [257, 999]}')
    assert any("the end tokens [999] are not among the model's 320 token ids" in line for line in plan())
    generation.write_text('{"eos_token_id": 7}')
    edit(world / "policy/tokenizer_config.json", eos_token="<|pad|>")
    assert any("ends the assistant's turn with '<|end|>', which is not an end token" in line for line in plan())
    generation.write_text('{"eos_token_id": "<|end|>"}')
    with pytest.raises(ModelError, match=r"holds '<\|end\|>', which is not a token id"):
        plan()
    generation.write_text('{"eos_token_id": 999}')
    edit(world / "policy/tokenizer_config.json", eos_token=None)
    with pytest.raises(
        ConfigError, match="the end token 999 is not one of the model's 320 token ids: no response would end"
    ):
        plan()
    generation.write_text("{}")
    edit(world / "policy/config.json", eos_token_id=None)
    assert any("names an end token: every response is as long as" in line for line in plan())
