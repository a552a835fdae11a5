"""One pass over a prompt for all of its responses gives what a plain pass gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from selfplay.backends.transformers import shared_prompt as module
from selfplay.backends.transformers.logprobs import TorchLogprobs
from selfplay.backends.transformers.reward_model import RewardModel
from selfplay.core.protocols import LogprobItem, ScoreItem
from tests.helpers.families import FAMILIES, make_model
from tests.helpers.tiny import make_tiny_llama, make_tiny_reward_model


def items() -> list[LogprobItem]:
    """Three prompts with 5, 4 and 3 responses of different lengths, and one response alone."""
    prompts = [list(range(10, 40)), list(range(60, 75)), list(range(100, 122)), [7, 8, 9]]
    counts = (5, 4, 3, 1)
    return [
        LogprobItem(f"{number}-{index}", prompt, [20 + number + index + place for place in range(3 + 4 * index)])
        for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("policy")))


def counted(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that go through the first layer of a model, padding included, call by call."""
    seen: list[int] = []
    model = backend._model if isinstance(backend, RewardModel) else backend._cache.model
    layer = model.base_model.layers[0]
    inner = layer.forward
    monkeypatch.setattr(
        layer,
        "forward",
        lambda hidden, *rest, **more: (seen.append(hidden.shape[:2].numel()), inner(hidden, *rest, **more))[1],
    )
    return seen


@pytest.mark.parametrize("batch_tokens", [120, 100_000])
def test_log_probs_of_shared_prompts(policy: str, monkeypatch: pytest.MonkeyPatch, batch_tokens: int) -> None:
    asked, backend = items(), TorchLogprobs(batch_tokens=batch_tokens)
    alone = [backend.logprobs(policy, "a", [item])["logp"][0].as_py() for item in asked]
    seen = counted(backend, monkeypatch)
    found = backend.logprobs(policy, "a", asked)
    assert found["response_id"].to_pylist() == [item.response_id for item in asked]
    assert found["logp"].to_pylist() == pytest.approx(alone, abs=1e-4)
    seen.clear()
    # the comparison with the plain pass is made once
    assert backend.logprobs(policy, "a", asked).equals(found)
    if batch_tokens > 120:
        assert sum(seen) < sum(len(item.prompt_token_ids) + len(item.token_ids) for item in asked)


def test_rewards_of_shared_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_reward_model(tmp_path)
    backend = RewardModel(str(folder))
    asked = [
        ScoreItem(
            f"{prompt}-{index}", [{"role": "user", "content": f"question number {prompt} of many"}], "word " * index
        )
        for prompt in range(3)
        for index in range(6)
    ]
    alone = [backend.score([item])["reward"][0].as_py() for item in asked]
    seen = counted(backend, monkeypatch)
    found = backend.score(asked)
    assert found["response_id"].to_pylist() == [item.response_id for item in asked]
    assert found["reward"].to_pylist() == pytest.approx(alone, abs=1e-5)
    assert backend._shared_prompts.possible
    seen.clear()
    backend.score(asked)
    rows = [backend.rows.render(item)[0] for item in asked]
    assert sum(seen) < sum(map(len, rows))


def test_a_model_that_differs_is_passed_over_plainly(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, backend = items(), TorchLogprobs()
    alone = [backend.logprobs(policy, "a", [item])["logp"][0].as_py() for item in asked]
    inner = module._PromptPass.arguments

    def shifted(self: Any, *arguments: Any) -> dict[str, Any]:
        found = inner(self, *arguments)
        return {**found, "position_ids": found["position_ids"] + 3 * (torch.arange(found["input_ids"].shape[1]) > 0)}

    monkeypatch.setattr(module._PromptPass, "arguments", shifted)
    assert backend.logprobs(policy, "a", asked)["logp"].to_pylist() == pytest.approx(alone, abs=1e-4)
    assert not backend._cache.shared_prompts.possible


@pytest.mark.parametrize(
    "changes",
    [{"is_encoder_decoder": True}, {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}],
)
def test_only_plain_decoders_with_full_attention_share(policy: str, changes: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy)
    assert module.SharedPrompts(model).possible
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert not module.SharedPrompts(model).possible


@pytest.mark.parametrize("name, shares", [("gpt2", True), ("qwen3-moe", True), ("mistral", False)])
def test_families(tmp_path: Path, name: str, shares: bool) -> None:
    asked, backend, folder = items(), TorchLogprobs(), str(make_model(FAMILIES[name], tmp_path))
    alone = [backend.logprobs(folder, "a", [item])["logp"][0].as_py() for item in asked]
    assert backend.logprobs(folder, "a", asked)["logp"].to_pylist() == pytest.approx(alone, abs=1e-4)
    assert backend._cache.shared_prompts.possible is shares


def test_which_rows_share() -> None:
    prompt = list(range(30))
    rows = [[*prompt, 90], [*prompt, 91, 92], [*prompt[:20], 93, 94], [1, 2], [1, 2, 3, 4, 5, 6, 7, 8]]
    shared = module.shared_rows(rows, ["a", "a", "a", "b", "b"], [len(row) - 1 for row in rows])
    assert shared.prompts == [prompt[:20]] and shared.rows == [0, 1, 2] and shared.prompt_of_row == [0, 0, 0]
    assert shared.suffixes == [row[20:] for row in rows[:3]]
    # the two of "b" have one token in common at most: it is not worth a pass of its own
    assert module.shared_rows(rows[3:], ["b", "b"], [1, 7]).rows == []
    # nor is what two rows have in common as long as it is short, however much of them it is
    assert module.shared_rows(rows[:2], ["a", "a"], [30, 30]).rows == []
    assert module.shared_rows(rows[:3], ["a", "a", "a"], [30, 30, 20]).rows == [0, 1, 2]
