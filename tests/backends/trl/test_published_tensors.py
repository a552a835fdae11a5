"""A trained policy's folder has the tensors of the published one: names, what training did not touch, tied copies."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfplay.backends.policy_folder import check_same_architecture, read_policy_folder
from selfplay.backends.trl.policy_files import load_policy, save_policy
from selfplay.inputs.models.files import weight_headers
from tests.helpers.families import FAMILIES, make_model
from tests.inputs.models.test_loading_check import PUBLISHED, edit


def tensors(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def trained(source, folder):
    """Every weight of the language model is larger by one half."""
    model = load_policy(source)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.5
    save_policy(model, source, folder)
    return model


@pytest.mark.parametrize("name", [*PUBLISHED, "gemma3-composite", "qwen3.5-composite"])
def test_the_folder_is_that_of_the_published_model_with_trained_weights(name, tmp_path):
    source = make_model(FAMILIES[name], tmp_path / "source")
    edit(source, PUBLISHED.get(name, lambda tensors: tensors))
    model = trained(source, tmp_path / "trained")
    check_same_architecture(read_policy_folder(tmp_path / "trained"), read_policy_folder(source))
    before, after = tensors(source), tensors(tmp_path / "trained")
    assert before.keys() == after.keys() == weight_headers(tmp_path / "trained").keys()
    # as a second round loads it, nothing is missing and nothing is stale
    again = dict(load_policy(tmp_path / "trained").named_parameters())
    assert all(torch.equal(again[weight], value) for weight, value in model.named_parameters())
    untouched = [key for key in before if torch.equal(before[key], after[key])]
    extra = {
        "gpt-neox": ["gpt_neox.layers.0.attention.bias"],
        "llama": ["model.layers.2.eh_proj.weight"],
        "qwen3-moe": ["mtp.norm.weight"],
    }.get(name, [])
    if name == "qwen3.5-composite":
        assert untouched and all("visual" in key for key in untouched)
    else:
        assert untouched == extra


def test_a_tied_weight_that_is_published_twice_has_its_trained_value_twice(tmp_path):
    source = edit(make_model(FAMILIES["llama-tied"], tmp_path / "source"), PUBLISHED["llama-tied"])
    trained(source, tmp_path / "trained")
    after = tensors(tmp_path / "trained")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])


def test_several_files_and_a_round_more(tmp_path):
    """Each round starts from the folder that the one before wrote."""
    source = make_model(FAMILIES["qwen3.5-composite"], tmp_path / "source")
    whole = load_file(source / "model.safetensors")
    names = sorted(whole)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: whole[name] for name in part}, source / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (source / "model.safetensors").unlink()
    trained(source, tmp_path / "one")
    trained(tmp_path / "one", tmp_path / "two")
    assert weight_headers(tmp_path / "two").keys() == whole.keys()
    after = tensors(tmp_path / "two")
    visual = [name for name in whole if "visual" in name]
    assert visual and all(torch.equal(after[name], whole[name]) for name in visual)
    assert not all(torch.equal(after[name], whole[name]) for name in whole)


def test_an_ordinary_folder_stays_one_file(tmp_path):
    source = make_model(FAMILIES["llama"], tmp_path / "source")
    trained(source, tmp_path / "trained")
    assert [path.name for path in (tmp_path / "trained").glob("model*")] == ["model.safetensors"]
