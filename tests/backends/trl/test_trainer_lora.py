"""LoRA rounds with TRL on a tiny real model: adapters are trained, merged in float32, and gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selfplay.core.errors import ConfigError
from tests.helpers.tiny import make_tiny_llama
from tests.helpers.training import largest_difference, make_job, make_pairs, train, weights

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def pairs(policy: Path) -> list:
    return make_pairs(policy, 19)


def test_lora_is_merged_and_leaves_no_adapter(policy, pairs, tmp_path):
    from transformers import AutoModelForCausalLM

    lora = LORA | {"dropout": 0.1}
    result = train(make_job(tmp_path, policy, pairs, lora=lora, learning_rate=1e-2, epochs=2))
    start, final = weights(policy), weights(tmp_path / "output/policy")
    assert start.keys() == final.keys()
    assert {t.dtype for t in final.values()} == {torch.float32}
    adapted = [name for name in start if not torch.equal(start[name], final[name])]
    assert adapted and all("_proj" in name for name in adapted)
    assert result.steps[-1].loss < 0.6
    assert 0 < result.changed_fraction < 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "output/policy", dtype=torch.float32)
    assert not list((tmp_path / "output").rglob("adapter*"))


def test_lora_dropout_is_not_switched_off(policy, pairs, tmp_path):
    train(make_job(tmp_path / "with", policy, pairs, lora=LORA | {"dropout": 0.5}, learning_rate=1e-2))
    train(make_job(tmp_path / "without", policy, pairs, lora=LORA, learning_rate=1e-2))
    assert largest_difference(weights(tmp_path / "with/output/policy"), weights(tmp_path / "without/output/policy")) > 0


@pytest.mark.parametrize("targets", [["q_proj", "query_key_value"], ["q_proj", "lm_head"], ".*query"])
def test_lora_targets_that_cannot_be_adapted_are_named(policy, pairs, tmp_path, targets):
    with pytest.raises(ConfigError, match=r"query|lm_head") as caught:
        train(make_job(tmp_path, policy, pairs, lora=LORA | {"target_modules": targets}))
    assert "q_proj" in caught.value.hint and "lm_head" not in caught.value.hint


def test_lora_on_modules_of_a_pattern(policy, pairs, tmp_path):
    train(make_job(tmp_path, policy, pairs, lora=LORA | {"target_modules": r".*\.0\..*q_proj"}))
    start, final = weights(policy), weights(tmp_path / "output/policy")
    assert [n for n in start if not torch.equal(start[n], final[n])] == ["model.layers.0.self_attn.q_proj.weight"]
