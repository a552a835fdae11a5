"""Rows that share their prompt, and the head that is given only the positions of responses: the same log-probs and gradients as a
row for each response through the whole model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM
from trl.trainer import utils as trl_utils

from selfplay.backends.trl.micro_batches import MicroBatches
from selfplay.backends.trl.pair_rows import may_share
from selfplay.backends.trl.response_head import add_response_head
from selfplay.backends.trl.rows import IGNORED_LABEL
from tests.helpers.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    rng = random.Random(1)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 200) for _ in range(rng.randint(low, high))]

    rows = [{"prompt_ids": tokens(1, 9), "chosen_ids": tokens(1, 12), "rejected_ids": tokens(1, 12)} for _ in range(6)]
    # nothing but one-token prompts and responses
    rows.append({"prompt_ids": [7], "chosen_ids": [8], "rejected_ids": [9]})
    made = MicroBatches(10**6, 100).collate(rows, list(range(len(rows))))
    labels = made["input_ids"].masked_fill(made["completion_mask"] == 0, IGNORED_LABEL)
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"], "labels": labels}


def load(folder: Path, attention: str = "sdpa") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)


def plain(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    logps = torch.log_softmax(logits, dim=-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return logps.masked_fill(targets == IGNORED_LABEL, 0.0)


@pytest.mark.parametrize(("shares_prompts", "attention"), [(False, "sdpa"), (True, "sdpa"), (True, "eager")])
def test_log_probs_and_gradients_are_those_of_the_whole_model(policy, batch, shares_prompts, attention):
    weights = torch.randn(
        len(batch["labels"]), batch["labels"].shape[1] - 1, generator=torch.Generator().manual_seed(0)
    )
    reference = load(policy)
    expected = plain(reference, batch)
    (expected * weights).sum().backward()

    model = load(policy, attention)
    add_response_head(model)
    model.response_head.shares_prompts = shares_prompts
    found = model(**batch, fused_lm_head=True).log_probs
    (found * weights).sum().backward()

    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.count_nonzero(found) == torch.count_nonzero(expected)
    gradients = {name: weight.grad for name, weight in reference.named_parameters()}
    for name, weight in model.named_parameters():
        assert float((weight.grad - gradients[name]).abs().max() / gradients[name].abs().max()) < 1e-5, name


@pytest.mark.parametrize("shares_prompts", [False, True])
def test_only_positions_that_predict_a_response_are_projected(policy, batch, shares_prompts, monkeypatch):
    projected = []
    real = trl_utils._ChunkedLogProbFunction

    class Spy:
        @staticmethod
        def apply(hidden: torch.Tensor, *args: Any) -> Any:
            projected.append(len(hidden))
            return real.apply(hidden, *args)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Spy)
    model = load(policy)
    add_response_head(model)
    model.response_head.shares_prompts = shares_prompts
    model(**batch, fused_lm_head=True)
    assert projected == [int((batch["labels"] != IGNORED_LABEL).sum())]


def test_the_models_own_forward_stays(policy, batch):
    model = load(policy)
    before = model(input_ids=batch["input_ids"]).logits
    add_response_head(model)
    assert torch.equal(model(input_ids=batch["input_ids"]).logits, before)


def test_a_window_of_attention_is_not_shared(policy):
    sizes = {
        "vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }  # fmt: skip
    assert may_share(load(policy))
    assert not may_share(MistralForCausalLM(MistralConfig(**sizes, sliding_window=4)))
    assert may_share(MistralForCausalLM(MistralConfig(**sizes, sliding_window=None)))
