"""Which keys of training.trl may pass through to TRL."""

from __future__ import annotations

import dataclasses

import pytest
from trl import DPOConfig
from trl.experimental.cpo import CPOConfig

from selfplay.backends.trl.pass_through import OWNED, _refusal, check_trl_keys
from selfplay.config.pass_through import TRL_KEYS
from selfplay.core.errors import ConfigError


@pytest.mark.parametrize(
    ("loss", "trl"),
    [
        ("dpo", {}),
        ("dpo", {"weight_decay": 0.1, "max_grad_norm": 0.5, "adam_beta2": 0.95, "use_weighting": True}),
        ("dpo", {"neftune_noise_alpha": 5.0, "lr_scheduler_kwargs": {"num_cycles": 1}}),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
        ("dpo", {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.8, 0.2]}),
        ("dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
        ("simpo", {"label_smoothing": 0.1, "weight_decay": 0.1}),
    ],
)
def test_keys_that_pass(loss, trl):
    assert check_trl_keys(loss, trl) == []


@pytest.mark.parametrize(
    ("loss", "trl", "words"),
    [
        ("dpo", {"weight_decy": 0.1}, ["weight_decy", "did you mean weight_decay"]),
        ("dpo", {"beta": 0.1}, ["training.beta"]),
        ("dpo", {"learning_rate": 1e-6}, ["training.learning_rate"]),
        ("dpo", {"warmup_ratio": 0.1}, ["training.warmup_ratio"]),
        ("dpo", {"per_device_train_batch_size": 2}, ["training.micro_batch_size"]),
        ("dpo", {"max_length": 5}, ["training.max_length"]),
        ("dpo", {"save_steps": 5}, ["training.checkpoint_every"]),
        ("dpo", {"precompute_ref_log_probs": False}, ["training.reference"]),
        ("dpo", {"bf16": True}, ["training.precision"]),
        ("dpo", {"simpo_gamma": 1.0}, ["training.simpo_gamma_beta_ratio"]),
        ("dpo", {"label_smoothing": 0.1}, ["ignores it with loss_type sigmoid", "robust"]),
        ("dpo", {"discopop_tau": 0.1}, ["discopop"]),
        ("dpo", {"loss_type": "aot"}, ["micro-batches"]),
        ("dpo", {"loss_type": "sigmod"}, ["did you mean sigmoid"]),
        ("dpo", {"ld_alpha": 0.5}, ["not supported", "label_smoothing"]),
        ("dpo", {"optim": "adamw_8bit"}, ["not supported"]),
        ("dpo", {"report_to": "wandb"}, ["tracking.to"]),
        ("dpo", {"rpo_alpha": 1.0}, ["does not have this key"]),
        ("dpo", {"dataloader_num_workers": 2}, ["not supported"]),
        ("dpo", {"hub_token": "x"}, ["not supported"]),
        ("simpo", {"loss_type": "hinge"}, ["training.loss"]),
        ("simpo", {"cpo_alpha": 1.0}, ["not supported"]),
        ("simpo", {"f_divergence_type": "js_divergence"}, ["loss simpo does not have this key"]),
    ],
)
def test_keys_that_are_refused_say_what_to_do(loss, trl, words):
    (problem,) = check_trl_keys(loss, trl)
    for word in words:
        assert word in problem


def test_the_tables_name_keys_of_the_installed_trl():
    fields = {field.name for config in (DPOConfig, CPOConfig) for field in dataclasses.fields(config)}
    assert TRL_KEYS.keys() <= fields
    assert OWNED.keys() - fields == {"warmup_ratio"}, "a key of earlier versions that many recipes still have"
    assert not TRL_KEYS.keys() & OWNED.keys()


def test_a_key_of_the_installed_trl_passes_only_if_it_was_judged():
    for loss, config in (("dpo", DPOConfig), ("simpo", CPOConfig)):
        fields = {field.name for field in dataclasses.fields(config)}
        assert len(fields) > 100
        passing = {key for key in fields if not _refusal(loss, key, [*fields])}
        assert passing == (TRL_KEYS.keys() & fields) - ({"loss_type"} if loss == "simpo" else set())
        assert "not supported" in _refusal(loss, "new_callback", [*fields, "new_callback"])


@pytest.mark.parametrize(
    "trl",
    [
        {"loss_type": "received.losses:mine"}, {"lr_scheduler_kwargs": {"lr_lambda": "received.schedule"}},
        {"gradient_checkpointing_kwargs": {"context_fn": "received:fn"}}, {"liger_kernel_config": {"rope": "a/b.py"}},
    ],
)  # fmt: skip
def test_a_value_names_nothing_outside_trl(trl):
    (problem,) = check_trl_keys("dpo", trl)
    assert "only numbers, flags and plain words" in problem


def test_every_problem_is_named():
    assert len(check_trl_keys("dpo", {"beta": 1, "seed": 2, "nonsense": 3})) == 3


def test_an_unknown_loss():
    with pytest.raises(ConfigError, match="unknown loss 'ppo'"):
        check_trl_keys("ppo", {})
