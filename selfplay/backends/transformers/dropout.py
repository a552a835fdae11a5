"""Switches off what makes a model's forward pass random in training mode.

A config may switch dropout on by many names (attention_dropout, attn_pdrop, hidden_dropout_prob, layerdrop, drop_path_rate,
router_jitter_noise, ...), in each of its sub-configs, and a model's own code may build it in. A policy is trained without:
its log-probs in the loss are those of the policy that was sampled from. Only LoRA has dropout, where its setting asks for it.
"""

from __future__ import annotations

from typing import Any

import torch

from selfplay.backends.transformers.attention import sub_configs

_RANDOM = ("drop", "jitter")
# A threshold of the router in evaluation mode too (SparseMixer), whatever its name says: without it another function.
_NO_NOISE = {("phimoe", "router_jitter_noise")}
_ROUNDING = 1e-4


def switch_off_in_config(config: Any) -> None:
    """Set every dropout and jitter of `config` and its sub-configs to 0; modules read them when they are built."""
    for part in sub_configs(config):
        for name, value in list(vars(part).items()):
            if _is_noise(name, value) and (part.model_type, name) not in _NO_NOISE:
                setattr(part, name, 0.0)


def switch_off_in_modules(model: torch.nn.Module) -> None:
    """Set what a model's own code has built in: modules for dropout, and numbers called so in other modules."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _is_noise(name, value) and "jitter" not in name:
                setattr(module, name, 0.0)


def _is_noise(name: str, value: Any) -> bool:
    return isinstance(value, float) and value != 0 and any(word in name for word in _RANDOM)


def is_random(model: torch.nn.Module, token_ids: list[int]) -> bool:
    """Whether the logits of one sequence differ between training and evaluation mode by more than rounding. The mode and the
    random generators stay as they were."""
    was_training = model.training
    inputs = torch.tensor([token_ids], device=next(model.parameters()).device)
    with torch.no_grad(), torch.random.fork_rng():
        training, evaluation = (model.train(mode)(input_ids=inputs, use_cache=False).logits for mode in (True, False))
    model.train(was_training)
    return not float((training - evaluation).norm()) <= _ROUNDING * float(evaluation.norm())
