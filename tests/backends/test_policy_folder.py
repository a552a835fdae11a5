"""A policy folder is refused, with a message that says why, before an engine touches it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfplay.backends.policy_folder import check_finite, check_same_architecture, read_policy_folder
from selfplay.core.errors import ModelError
from tests.helpers.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def other(tmp_path):
    return make_tiny_llama(tmp_path / "other", seed=1)


def edit(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_good_folder_passes(model, other):
    policy = read_policy_folder(other)
    check_same_architecture(policy, read_policy_folder(model))
    check_finite(policy)
    assert policy.shapes["lm_head.weight"] == (320, 64)


def test_missing_folder_and_missing_files_are_named(tmp_path, other):
    with pytest.raises(ModelError, match=r"no policy folder .*nowhere"):
        read_policy_folder(tmp_path / "nowhere")
    (other / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"other holds no safetensors weights"):
        read_policy_folder(other)
    (other / "config.json").unlink()
    with pytest.raises(ModelError, match=r"other has no config.json"):
        read_policy_folder(other)


def test_config_that_is_no_config_is_refused(other):
    (other / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        read_policy_folder(other)
    (other / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match=r"transformers cannot read .*config.json"):
        read_policy_folder(other)


def test_truncated_file_is_refused(other):
    file = other / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors has \d+ bytes, its header describes"):
        read_policy_folder(other)


def test_sharded_folder_is_read_and_its_gaps_are_named(other):
    tensors = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, other / file)
    index = other / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: file for file, part in parts.items() for n in part}}))
    assert read_policy_folder(other).shapes.keys() == tensors.keys()
    save_file({name: tensors[name] for name in names[6:]}, other / "model-2.safetensors")
    with pytest.raises(ModelError, match=f"lists 1 tensors that are not in their file, for example {names[5]}"):
        read_policy_folder(other)
    (other / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files: model-2.safetensors"):
        read_policy_folder(other)
    index.write_text("[]")
    with pytest.raises(ModelError, match="is not a JSON object"):
        read_policy_folder(other)


def test_missing_extra_and_misshapen_tensors_are_named(model, other):
    served = read_policy_folder(model)
    edit(other, lambda t: t.update({"model.norm.weight": torch.ones(32)}))
    with pytest.raises(ModelError, match=r"model.norm.weight \[32\], not \[64\]"):
        check_same_architecture(read_policy_folder(other), served)
    edit(other, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(ModelError, match=r"lacks model.norm.weight, which"):
        check_same_architecture(read_policy_folder(other), served)
    edit(other, lambda t: t.update({"model.norm.weight": torch.ones(64), "lora_A.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"has lora_A.weight, which"):
        check_same_architecture(read_policy_folder(other), served)


def test_another_config_is_refused_but_its_spelling_is_free(model, other):
    served = read_policy_folder(model)
    edit_config(other, rms_norm_eps=1e-5)
    with pytest.raises(ModelError, match="rms_norm_eps is 1e-05, not 1e-06"):
        check_same_architecture(read_policy_folder(other), served)
    edit_config(other, rms_norm_eps=1e-6, transformers_version="4.40.0", use_cache=False, torch_dtype="bfloat16")
    check_same_architecture(read_policy_folder(other), served)


def test_what_two_writers_of_one_model_differ_in_is_no_difference(tmp_path):
    model, other = (make_tiny_llama(tmp_path / name, seed=s, tied=True) for s, name in enumerate(("a", "b")))
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
        "lm_head.weight": torch.ones(320, 64),
    }
    edit(other, lambda t: t.update(extra))
    check_same_architecture(read_policy_folder(other), read_policy_folder(model))
    check_same_architecture(read_policy_folder(model), read_policy_folder(other))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(other, value, dtype):
    def spoil(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors["model.embed_tokens.weight"][319, 63] = value

    edit(other, spoil)
    with pytest.raises(ModelError, match=r"NaN or infinite values in model.embed_tokens.weight"):
        check_finite(read_policy_folder(other))
