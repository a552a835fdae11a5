"""Dropout and noise are off, by whatever name and wherever a config or a model's code has them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Gemma3Config

from selfplay.backends.transformers.dropout import is_random, switch_off_in_config, switch_off_in_modules
from selfplay.backends.transformers.loading import load_complete
from tests.helpers.families import Family, make_model

PHIMOE = Family(
    "phimoe",
    {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.3, "input_jitter_noise": 0.3},
)


@pytest.mark.parametrize(
    "family",
    [
        Family("granite", {"attention_dropout": 0.5}),
        Family("gpt_neox", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
        Family("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        Family("opt", {"ffn_dim": 96, "dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5, "word_embed_proj_dim": 64}),
        Family("mixtral", {"num_local_experts": 4, "router_jitter_noise": 0.3}),
        Family("qwen2", {"attention_dropout": 0.5}),
        Family("falcon", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
    ],
    ids=lambda family: family.kind,
)  # fmt: skip
def test_training_mode_computes_what_evaluation_mode_computes(family, tmp_path):
    folder = make_model(family, tmp_path)
    as_published = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert is_random(as_published, [*range(5, 45)])
    model = load_complete(AutoModelForCausalLM, folder, torch.float32, "policy", for_training=True)
    assert not is_random(model, [*range(5, 45)])


def test_what_evaluation_reads_stays_as_it_is(tmp_path):
    """The router of Phi-3.5-MoE has a threshold that is called jitter, and draws its experts in training: it is left as it is,
    and reported as random."""
    folder = make_model(PHIMOE, tmp_path)
    published = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = load_complete(AutoModelForCausalLM, folder, torch.float32, "policy", for_training=True).eval()
    ids = torch.tensor([[*range(5, 45)]])
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False).logits, published(ids, use_cache=False).logits)
    assert is_random(model, [*range(5, 45)])


def test_sub_configs_and_reward_models(tmp_path):
    config = Gemma3Config(
        text_config={"attention_dropout": 0.2}, vision_config={"attention_dropout": 0.3}, head_dropout_prob=0.4
    )
    switch_off_in_config(config)
    assert (config.text_config.attention_dropout, config.vision_config.attention_dropout) == (0.0, 0.0)
    assert config.head_dropout_prob == 0.0
    folder = make_model(Family("gpt_neox", {"classifier_dropout": 0.5}), tmp_path, reward=True)
    model = load_complete(AutoModelForSequenceClassification, folder, torch.float32, "reward model", for_training=True)
    assert all(module.p == 0.0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_what_a_models_own_code_builds_in():
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.dropout_rate, self.scale = torch.nn.Dropout1d(0.5), 0.5, 0.25

    layer = Layer()
    switch_off_in_modules(layer)
    assert (layer.mix.p, layer.dropout_rate, layer.scale) == (0.0, 0.0, 0.25)


def test_the_random_generator_and_the_mode_stay(tmp_path):
    model = load_complete(AutoModelForCausalLM, make_model(Family("llama"), tmp_path), torch.float32, "policy").eval()
    before = torch.random.get_rng_state()
    assert not is_random(model, [5, 6, 7])
    assert not model.training
    assert torch.equal(before, torch.random.get_rng_state())
