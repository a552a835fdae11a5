"""From a `TrainJob` to TRL's config objects (stage *train*): every setting in one place, with TRL's traps
stepped around."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from trl import DPOConfig
from trl.experimental.cpo import CPOConfig

from selfplay.backends.trl.pass_through import check_trl_keys, loss_types
from selfplay.core.errors import ConfigError
from selfplay.core.protocols import TrainJob
from selfplay.inputs.models.lora_targets import check_lora_targets

# "constant" would ignore the warm-up without a word.
SCHEDULES = ("cosine", "linear", "constant_with_warmup")
_AT_ZERO_MARGIN = {"sigmoid": math.log(2), "sigmoid_norm": math.log(2), "robust": math.log(2), "hinge": 1.0}


def check_job(job: TrainJob, device: torch.device) -> None:
    """Raises ConfigError for settings that cannot be trained with, before anything is loaded."""
    problems = check_trl_keys(job.loss, job.trl)
    if problems:
        raise ConfigError("; ".join(problems), "Change or remove the key under training.trl.")
    if (job.gamma_beta_ratio is None) == (job.loss == "simpo"):
        raise ConfigError(
            f"training.simpo_gamma_beta_ratio is {job.gamma_beta_ratio} with training.loss: {job.loss}",
            "SimPO needs it (0.3 to 0.5 in published recipes); DPO does not have it.",
        )
    if job.schedule not in SCHEDULES:
        raise ConfigError(f"training.schedule: unknown {job.schedule!r}", f"Use one of {', '.join(SCHEDULES)}.")
    if job.precision not in ("auto", "float32", "bf16"):
        raise ConfigError(f"training.precision: unknown {job.precision!r}", "Use auto, float32 or bf16.")
    if job.engine_dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"the engine's dtype {job.engine_dtype!r} is unknown", "Use float32 or bfloat16.")
    if job.precision == "bf16" and device.type == "cpu":
        raise ConfigError(
            "training.precision: bf16 on a CPU",
            "Use float32 or auto: autocast on a CPU is an order of magnitude slower.",
        )
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        raise ConfigError(
            f"the trainer sees {torch.cuda.device_count()} GPUs and uses one",
            "Set cluster.trainer.num_gpus: 1, or CUDA_VISIBLE_DEVICES to one of them.",
        )


def uses_bf16(job: TrainJob, device: torch.device) -> bool:
    """Whether the forward pass runs under bf16 autocast: when asked for, or by default on a GPU."""
    return device.type == "cuda" and job.precision in ("auto", "bf16")


def make_args(job: TrainJob, device: torch.device, notes: list[str]) -> DPOConfig | CPOConfig:
    """TRL's config for a checked job. Appends to `notes` what a reader of the result should know.

    Raises ConfigError for values under `training.trl` that TRL refuses.
    """
    settings: dict[str, Any] = {
        **job.trl,
        "output_dir": job.checkpoint_dir,
        "beta": job.beta,
        "learning_rate": job.learning_rate,
        "num_train_epochs": job.epochs,
        # above 0 it overrules the epochs; rows are shuffled anew for each pass over them
        "max_steps": job.max_steps or -1,
        # a batch of the data loader is an optimizer step: MicroBatches cuts it
        "per_device_train_batch_size": job.batch_size,
        "gradient_accumulation_steps": 1,
        "warmup_steps": _warmup(job, notes),
        "lr_scheduler_type": job.schedule,
        # one kernel for all parameters; moments have the parameters' dtype, float32
        "optim": "adamw_torch_fused",
        "use_cpu": device.type == "cpu",
        "bf16": uses_bf16(job, device),
        "fp16": False,
        "gradient_checkpointing": job.gradient_checkpointing,
        # numpy takes 32 bits
        "seed": job.seed % 2**31,
        # Dropout is switched off where the policy is loaded: TRL's switch would take LoRA's too.
        "disable_dropout": False,
        "save_strategy": "steps" if job.checkpoint_every else "no",
        "save_steps": job.checkpoint_every or 500,
        # sealed checkpoints are counted by us; TRL would count unfinished ones too
        "save_total_limit": None,
        "logging_strategy": "steps",
        "logging_steps": 1,
        # the filter replaces a NaN loss in the log by an average of earlier ones
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type == "cuda",
    }
    if job.loss == "simpo":
        assert job.gamma_beta_ratio is not None
        notes.append(
            "SimPO comes from trl.experimental.cpo, which TRL calls experimental: it may change between versions"
        )
        # max_length is not read on rows of token ids; pairs that are too long never get here
        settings |= {
            "loss_type": "simpo",
            "cpo_alpha": 0.0,
            "simpo_gamma": job.gamma_beta_ratio * job.beta,
            "max_length": job.max_length,
        }
        return _construct(CPOConfig, settings)
    # precompute_ref_log_probs makes TRL read the reference from the rows and load no reference model
    settings |= {"max_length": None, "precompute_ref_log_probs": True}
    return _construct(DPOConfig, settings)


def _construct(config: type[Any], settings: dict[str, Any]) -> Any:
    try:
        return config(**settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"TRL refuses a value under training.trl: {error}", "See TRL's documentation of the key."
        ) from error


def num_steps(job: TrainJob) -> int:
    """Optimizer steps of a job: the last step of an epoch may hold fewer pairs."""
    return job.max_steps or job.epochs * math.ceil(len(job.pairs) / job.batch_size)


def _warmup(job: TrainJob, notes: list[str]) -> float:
    """TRL's `warmup_steps`: below 1 it is a ratio of the steps, rounded up. The first of them has a learning
    rate of 0, so with as many as there are steps nothing would be trained."""
    steps = num_steps(job)
    if job.warmup_ratio and math.ceil(steps * job.warmup_ratio) >= steps:
        notes.append(f"no warm-up: with {steps} optimizer step(s) all of them would have a learning rate of 0")
        return 0.0
    return job.warmup_ratio


def make_peft_config(job: TrainJob, model: nn.Module) -> LoraConfig | None:
    """peft's config for `job.lora` = {r, alpha, dropout, target_modules}; None without it. Raises
    ConfigError."""
    if job.lora is None:
        return None
    targets = job.lora["target_modules"]
    check_lora_targets(targets, model)
    return LoraConfig(
        r=job.lora["r"],
        lora_alpha=job.lora["alpha"],
        lora_dropout=job.lora["dropout"],
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def expected_first_loss(job: TrainJob) -> float | None:
    """The loss when every policy log-prob equals its reference; None where that is not so or the value is not
    tabled.

    Defined for DPO whose reference is the starting policy: ln 2 for the sigmoid losses, 1 for hinge, 1 / (4
    beta^2) for IPO.
    """
    if job.loss != "dpo" or not job.reference_is_policy or job.trl.get("use_weighting", False):
        return None
    values = _AT_ZERO_MARGIN | {"ipo": 1 / (4 * job.beta**2)}
    names = loss_types(job.trl)
    if any(name not in values for name in names):
        return None
    weights = job.trl.get("loss_weights", [1.0] * len(names))
    return math.fsum(weight * values[name] for weight, name in zip(weights, names, strict=True))
