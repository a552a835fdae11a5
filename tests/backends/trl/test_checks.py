"""What is trained is what comes back: training mode, merged adapters, written weights."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from selfplay.backends.transformers import loading
from selfplay.backends.trl.checks import check_saved, merge_adapters
from selfplay.backends.trl.policy_files import load_policy, save_policy
from selfplay.core.errors import BackendError
from tests.helpers.families import FAMILIES, make_model
from tests.helpers.training import make_job, make_pairs, train


def adapted(folder, targets, **settings):
    """A policy with adapters that do something."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(load_policy(folder), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.mark.parametrize(("pairs", "checked"), [(1, 1), (15, 15), (100, 16), (240, 30), (512, 64), (100_000, 64)])
def test_checks_cost_a_small_part_of_a_training(pairs, checked):
    from selfplay.backends.trl.checks import num_checked_pairs

    assert num_checked_pairs(pairs) == checked


@pytest.mark.parametrize("name", ["llama-tied", "qwen3-moe", "gpt2"])
def test_merged_adapters_give_the_trained_logits(name, tmp_path):
    folder = make_model(FAMILIES[name], tmp_path / "policy")
    job = make_job(tmp_path, folder, make_pairs(folder, 1))
    model = adapted(folder, "all-linear")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        trained = model(input_ids=ids, use_cache=False).logits
        merged = merge_adapters(model, job)(input_ids=ids, use_cache=False).logits
    assert float((merged - trained).abs().max()) < 1e-3


def test_adapters_that_do_not_survive_merging_are_refused(tmp_path):
    """The embeddings are tied: merged, their adapter changes the output layer, which was trained without it."""
    folder = make_model(FAMILIES["llama-tied"], tmp_path / "policy")
    job = make_job(tmp_path, folder, make_pairs(folder, 1))
    with pytest.raises(BackendError, match="merging the LoRA adapters into the policy changes its logits by"):
        merge_adapters(adapted(folder, ["embed_tokens"]), job)
    free = make_model(FAMILIES["llama"], tmp_path / "free")
    merge_adapters(adapted(free, ["embed_tokens"]), make_job(tmp_path, free, make_pairs(free, 1)))


@pytest.mark.parametrize("name", ["llama", "qwen3-moe"])
def test_a_policy_that_does_not_load_as_it_was_trained_is_refused(name, tmp_path):
    source = make_model(FAMILIES[name], tmp_path / "source")
    model = load_policy(source)
    save_policy(model, source, tmp_path / "saved")
    check_saved(model, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved/model.safetensors")
    last = sorted(name for name in tensors if "down_proj" in name)[-1]
    tensors[last] = tensors[last] * (1 + 1e-6)
    save_file(tensors, tmp_path / "saved/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match=r"does not load as it was trained: .*down_proj"):
        check_saved(model, tmp_path / "saved")


def test_dropout_that_nothing_switches_off_stops_a_training(tmp_path, monkeypatch):
    folder = make_model(FAMILIES["granite"], tmp_path / "policy")
    assert json.loads((folder / "config.json").read_text())["attention_dropout"] == 0.1
    job = make_job(tmp_path, folder, make_pairs(folder, 2), batch_size=2, micro_batch_size=2, max_steps=1)
    monkeypatch.setattr(loading, "switch_off_in_config", lambda config: None)
    monkeypatch.setattr(loading, "switch_off_in_modules", lambda model: None)
    with pytest.raises(BackendError, match="another function in training mode than in evaluation mode"):
        train(job)
