"""What loading a policy would refuse, found without its weights; tensors named and carried as published checkpoints have them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfplay.core.errors import ModelError
from selfplay.inputs.models.loading_check import check_policy_loads, check_reward_model_loads
from tests.helpers.families import FAMILIES, make_model


def edit(folder, change):
    tensors = change(load_file(folder / "model.safetensors"))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3-moe", "gemma3-composite", "qwen3.5-composite"])
def test_complete_models_pass(name, tmp_path):
    model = check_policy_loads(make_model(FAMILIES[name], tmp_path)).model
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


PUBLISHED = {
    "gpt-neox": lambda tensors: tensors | {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8)},
    "gpt2": lambda tensors: {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
    "llama-tied": lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
    "llama": lambda tensors: tensors | {"model.layers.2.eh_proj.weight": torch.ones(64, 128)},
    "qwen3-moe": lambda tensors: tensors | {"mtp.norm.weight": torch.ones(64)},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_extra_tensors_pass(name, tmp_path):
    check_policy_loads(edit(make_model(FAMILIES[name], tmp_path), PUBLISHED[name]))


def test_tensors_that_are_left_out_are_said(tmp_path):
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
    policy = make_model(FAMILIES["llama"], tmp_path / "policy")
    assert check_policy_loads(policy).warnings == ()
    (said,) = check_policy_loads(edit(policy, lambda tensors: tensors | extra)).warnings
    assert "LlamaForCausalLM and are left out (model.layers.0.self_attn.q_proj.bias)" in said
    reward = make_model(FAMILIES["llama"], tmp_path / "reward", reward=True)
    (said,) = check_reward_model_loads(edit(reward, lambda tensors: tensors | {"score.bias": torch.ones(1)})).warnings
    assert "LlamaForSequenceClassification and are left out (score.bias)" in said


def test_what_is_really_missing_is_refused(tmp_path):
    folder = make_model(FAMILIES["llama"], tmp_path / "policy")
    edit(folder, without("model.layers.1.mlp.up_proj.weight", "lm_head.weight"))
    with pytest.raises(
        ModelError, match=r"the policy in .* lacks 2 weights \(lm_head.weight, model.layers.1.mlp.up_proj"
    ):
        check_policy_loads(folder)
    experts = make_model(FAMILIES["qwen3-moe"], tmp_path / "experts")
    edit(experts, without(*(f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(4))))
    with pytest.raises(ModelError, match="the policy in"):
        check_policy_loads(experts)
    reward = make_model(FAMILIES["llama"], tmp_path / "reward", reward=True)
    check_reward_model_loads(reward)
    edit(reward, without("score.weight"))
    with pytest.raises(ModelError, match=r"the reward model in .* lacks 1 weights \(score.weight\)"):
        check_reward_model_loads(reward)


def test_another_shape_and_an_unknown_kind_of_model_are_refused(tmp_path):
    folder = make_model(FAMILIES["llama"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(ModelError, match="does not load"):
        check_policy_loads(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "none-such"}))
    with pytest.raises(ModelError, match="does not load"):
        check_policy_loads(folder)


def test_nothing_is_printed(tmp_path, capfd):
    folder = make_model(FAMILIES["gpt-neox"], tmp_path)
    edit(folder, PUBLISHED["gpt-neox"])
    capfd.readouterr()
    check_policy_loads(folder)
    assert capfd.readouterr() == ("", "")
