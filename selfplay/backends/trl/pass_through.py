"""Which keys of `training.trl` may pass through to TRL's config, asked when a config is read and again before
training.

Everything TRL's dataclass knows may pass, except what selfplay sets itself, what would do nothing, and what
would break a promise (a resume with the same weights, a result that does not depend on the micro-batch).
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from selfplay.core.errors import ConfigError

LOSSES = ("dpo", "simpo")

# key of TRL -> setting of selfplay that decides it
_OWNED = {
    "beta": "training.beta",
    "simpo_gamma": "training.simpo_gamma_beta_ratio (a ratio to beta)",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_size",
    "auto_find_batch_size": "training.micro_batch_size",
    "max_length": "training.max_length",
    "max_completion_length": "sampling.max_tokens",
    "truncation_mode": "training.max_length (sequences are never truncated)",
    "warmup_steps": "training.warmup_ratio",
    "warmup_ratio": "training.warmup_ratio",
    "lr_scheduler_type": "training.schedule",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "seed": "seed",
    "data_seed": "seed",
    "train_sampling_strategy": "seed (rows are shuffled by it)",
    "use_cpu": "cluster.trainer.num_gpus",
    "disable_dropout": "training.lora.dropout (other dropout is always off)",
    "trust_remote_code": "policy.trust_remote_code",
    "resume_from_checkpoint": "training.checkpoint_every",
    "output_dir": "--run-dir",
}
_OWNED_PREFIXES = {
    "save_": "training.checkpoint_every",
    "eval_": "evaluation",
    "per_device_eval": "evaluation",
    "ref_model_": "training.reference",
    "precompute_ref_": "training.reference (its log-probs are cached by the stage logprobs)",
    "sync_ref_": "training.reference",
}
_REFUSED = {
    "optim": "the optimizer is AdamW with float32 moments",
    "optim_args": "the optimizer is AdamW with float32 moments",
    "model_init_kwargs": "selfplay loads the policy itself, in float32",
    "ld_alpha": "it needs the reference's log-prob of every token, and only their sum is kept",
    "padding_free": "TRL ignores it",
    "pad_token": "rows are token ids and their padding is masked",
    "cpo_alpha": "SimPO has no likelihood term",
    "alpha": "that is AlphaPO, another loss",
    "is_encoder_decoder": "policies are decoders",
    "generate_during_eval": "evaluation has a stage of its own",
    "accelerator_config": "training runs in one process",
    "parallelism_config": "training runs in one process",
    "ignore_data_skip": "a resumed round would see other rows",
    "full_determinism": "it is a setting of the whole process",
    "label_smoothing_factor": "preference losses do not have it: use label_smoothing",
    "load_best_model_at_end": "a round keeps its last weights",
    "remove_unused_columns": "selfplay builds the rows",
    "dataset_num_proc": "rows are tokenised already",
    "average_tokens_across_devices": "training runs in one process",
}
# Whole families that make no sense here: reporting, hub, logging, several devices, loaders.
_REFUSED_PREFIXES = (
    "log_", "logging_", "report_to", "disable_tqdm", "run_name", "project", "trackio_", "push_to_hub", "hub_",
    "metric_for", "greater_is", "batch_eval", "prediction_loss", "include_", "fsdp", "deepspeed", "ddp_",
    "local_rank", "do_", "label_names", "length_column", "restore_callback", "dataloader_", "bf16_full",
    "fp16_full", "debug", "enable_jit", "use_cache", "torch_compile",
)  # fmt: skip
# DPO losses whose value on a batch is not the mean of values on its pairs: they would depend on the micro-
# batch.
_BATCH_LOSSES = ("aot", "aot_unpaired", "sft")
_PAIR_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
    "discopop", "sigmoid_norm",
)  # fmt: skip
_F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
# key -> DPO losses that read it; with others TRL ignores it
_READ_BY = {"label_smoothing": ("robust", "exo_pair"), "discopop_tau": ("discopop",)}


def loss_types(trl: dict[str, Any]) -> list[str]:
    """The DPO losses that `training.trl` asks for; TRL's sigmoid loss where it asks for none."""
    named = trl.get("loss_type", "sigmoid")
    return [named] if isinstance(named, str) else list(named)


def check_trl_keys(loss: str, trl: dict[str, Any]) -> list[str]:
    """What is wrong with the pass-through keys, one sentence each naming key and way out; empty when all may
    pass.

    Raises ConfigError for a `loss` that is not in LOSSES.
    """
    if loss not in LOSSES:
        raise ConfigError(f"training.loss: unknown loss {loss!r}", f"Use one of {', '.join(LOSSES)}.")
    known = _fields(loss)
    problems = [problem for key in sorted(trl) if (problem := _refusal(loss, key, known))]
    return problems or (_dpo_combination(trl) if loss == "dpo" else [])


def _fields(loss: str) -> list[str]:
    if loss == "simpo":
        from trl.experimental.cpo import CPOConfig as Config
    else:
        from trl import DPOConfig as Config
    return [field.name for field in dataclasses.fields(Config)]


def _refusal(loss: str, key: str, known: list[str]) -> str:
    """Why this key may not pass, whatever its value; empty when it may."""
    where = f"training.trl.{key}"
    if loss == "simpo" and key == "loss_type":
        return f"{where}: set by selfplay; use training.loss"
    if owner := _OWNED.get(key):
        return f"{where}: set by selfplay; use {owner}"
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        return f"{where}: TRL's config for loss {loss} has no such key" + (f"; did you mean {near[0]}?" if near else "")
    for prefix, owner in _OWNED_PREFIXES.items():
        if key.startswith(prefix):
            return f"{where}: set by selfplay; use {owner}"
    if reason := _REFUSED.get(key):
        return f"{where}: refused, because {reason}"
    if key.startswith(_REFUSED_PREFIXES):
        return f"{where}: refused, because selfplay decides logging, saving, loading and placement itself"
    return ""


def _dpo_combination(trl: dict[str, Any]) -> list[str]:
    """Problems between keys that may each pass, for DPO."""
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
        problems.append("training.trl.loss_weights: it goes with several loss types; name them in loss_type")
    return problems
