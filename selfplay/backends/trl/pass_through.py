"""Checks the keys of `training.trl` before a run starts, and again before training.

A key passes on to TRL's config if it is in `TRL_KEYS` (config/pass_through.py), it is a field of the installed TRL's config, and
its value names nothing outside (`is_plain`). All others are refused: those that a setting of selfplay decides, and those of
logging, saving, loading and placement, which would have no effect or break a promise (a resume gives the same weights, a result
does not depend on the micro-batch).
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from selfplay.config.pass_through import TRL_KEYS, is_plain
from selfplay.core.errors import ConfigError

LOSSES = ("dpo", "simpo")

# key of TRL -> the setting of selfplay that decides it
OWNED = {
    "beta": "training.beta",
    "simpo_gamma": "training.simpo_gamma_beta_ratio (a ratio to beta)",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.micro_batch_tokens or training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_tokens",
    "max_length": "training.max_length",
    "max_completion_length": "sampling.max_tokens",
    "warmup_steps": "training.warmup_ratio",
    "warmup_ratio": "training.warmup_ratio",
    "lr_scheduler_type": "training.schedule",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "seed": "seed",
    "data_seed": "seed",
    "use_cpu": "cluster.trainer.num_gpus",
    "disable_dropout": "training.lora.dropout (other dropout is always off)",
    "trust_remote_code": "policy.trust_remote_code",
    "precompute_ref_log_probs": "training.reference",
    "save_steps": "training.checkpoint_every",
    "resume_from_checkpoint": "training.checkpoint_every",
    "report_to": "tracking.to",
    "output_dir": "--run-dir",
}
# DPO losses whose value on a batch is not the mean over its pairs: they would depend on the micro-batch.
_BATCH_LOSSES = ("aot", "aot_unpaired", "sft")
_PAIR_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
    "discopop", "sigmoid_norm",
)  # fmt: skip
_F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
# key -> the DPO losses that read it; TRL ignores it with others
_READ_BY = {"label_smoothing": ("robust", "exo_pair"), "discopop_tau": ("discopop",)}


def loss_types(trl: dict[str, Any]) -> list[str]:
    """The DPO losses that `training.trl` names; TRL's sigmoid loss if it names none."""
    named = trl.get("loss_type", "sigmoid")
    return [named] if isinstance(named, str) else list(named)


def check_trl_keys(loss: str, trl: dict[str, Any]) -> list[str]:
    """The problems of the pass-through keys, one message for each, which says what to do; empty if all may pass.

    Raises ConfigError for a `loss` that is not in LOSSES.
    """
    if loss not in LOSSES:
        raise ConfigError(f"training.loss: unknown loss {loss!r}", f"Use one of {', '.join(LOSSES)}.")
    known = _fields(loss)
    problems = [
        problem for key in sorted(trl) if (problem := _refusal(loss, key, known) or _refused_value(key, trl[key]))
    ]
    return problems or (_dpo_combination(trl) if loss == "dpo" else [])


def _fields(loss: str) -> list[str]:
    if loss == "simpo":
        from trl.experimental.cpo import CPOConfig as Config
    else:
        from trl import DPOConfig as Config
    return [field.name for field in dataclasses.fields(Config)]


def _refusal(loss: str, key: str, known: list[str]) -> str:
    """Why this key may not pass, whatever its value; empty if it may."""
    where = f"training.trl.{key}"
    if loss == "simpo" and key == "loss_type":
        return f"{where}: selfplay sets it; use training.loss"
    if owner := OWNED.get(key):
        return f"{where}: selfplay sets it; use {owner}"
    allowed = sorted(TRL_KEYS.keys() & known)
    if key not in known:
        near = difflib.get_close_matches(key, allowed, n=1)
        return f"{where}: TRL's config for loss {loss} does not have this key" + (
            f"; did you mean {near[0]}?" if near else ""
        )
    if key not in TRL_KEYS:
        return f"{where}: not supported; selfplay passes on to TRL {', '.join(allowed)}"
    return ""


def _refused_value(key: str, value: Any) -> str:
    if is_plain(value):
        return ""
    return f"training.trl.{key} is {value!r}: only numbers, flags and plain words (letters, digits, - and _) are passed on to TRL"


def _dpo_combination(trl: dict[str, Any]) -> list[str]:
    """Problems of values and combinations of keys that may pass, for DPO."""
    losses = loss_types(trl)
    problems = []
    for name in losses:
        if name in _BATCH_LOSSES:
            problems.append(
                f"training.trl.loss_type: {name} is refused: its value depends on how a step is cut into micro-batches"
            )
        elif name not in _PAIR_LOSSES:
            near = difflib.get_close_matches(str(name), _PAIR_LOSSES, n=1)
            problems.append(
                f"training.trl.loss_type: unknown loss {name!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
    for key, readers in _READ_BY.items():
        if key in trl and not set(losses) & set(readers):
            problems.append(
                f"training.trl.{key}: TRL ignores it with loss_type {', '.join(losses)}; "
                f"set training.trl.loss_type to {' or '.join(readers)}, or leave it out"
            )
    if (divergence := trl.get("f_divergence_type", "reverse_kl")) not in _F_DIVERGENCES:
        problems.append(f"training.trl.f_divergence_type: unknown {divergence!r}; TRL has {', '.join(_F_DIVERGENCES)}")
    if "f_alpha_divergence_coef" in trl and trl.get("f_divergence_type") != "alpha_divergence":
        problems.append(
            "training.trl.f_alpha_divergence_coef: TRL ignores it without f_divergence_type: alpha_divergence"
        )
    if "loss_weights" in trl and len(losses) == 1:
        problems.append("training.trl.loss_weights: it needs several loss types; name them in loss_type")
    return problems
