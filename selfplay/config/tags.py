"""What a change of a setting means for a run that has begun: the tag every config field carries.

identity    the run is another run with another value: refused on resume, a fork is offered
content     a place (file, folder, hub name, function): may move, but its content digest is identity
extendable  may grow on resume
resource    devices, batch splits, budgets: may change freely, results do not depend on it
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

Tag = Literal["identity", "content", "extendable", "resource"]

# Keys of `sampling.engine` that change where and how fast vLLM works, not its results. All others are identity.
ENGINE_KEYS: dict[str, Tag] = {
    "block_size": "resource",
    "cpu_offload_gb": "resource",
    "disable_log_stats": "resource",
    "distributed_executor_backend": "resource",
    "enforce_eager": "resource",
    "gpu_memory_utilization": "resource",
    "kv_cache_memory_bytes": "resource",
    "max_num_batched_tokens": "resource",
    "max_num_seqs": "resource",
    "pipeline_parallel_size": "resource",
    "tensor_parallel_size": "resource",
}
# The keys of `training.trl` that are passed on to TRL. No other key is: see backends/trl/pass_through.py.
TRL_KEYS: dict[str, Tag] = {
    "activation_offloading": "resource",
    "adam_beta1": "identity",
    "adam_beta2": "identity",
    "adam_epsilon": "identity",
    "discopop_tau": "identity",
    "f_alpha_divergence_coef": "identity",
    "f_divergence_type": "identity",
    "gradient_checkpointing_kwargs": "resource",
    "label_smoothing": "identity",
    "liger_kernel_config": "identity",
    "loss_type": "identity",
    "loss_weights": "identity",
    "lr_scheduler_kwargs": "identity",
    "max_grad_norm": "identity",
    "neftune_noise_alpha": "identity",
    "pad_to_multiple_of": "identity",
    "router_aux_loss_coef": "identity",
    "tf32": "identity",
    "torch_empty_cache_steps": "resource",
    "use_liger_kernel": "identity",
    "use_weighting": "identity",
    "weight_decay": "identity",
}


def tagged(tag: Tag, default: Any, description: str, **constraints: Any) -> Any:
    """A pydantic field with its tag; `...` as the default makes it required."""
    return Field(default, description=description, json_schema_extra={"tag": tag}, **constraints)


def identity(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("identity", default, description, **constraints)


def content(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("content", default, description, **constraints)


def resource(default: Any, description: str, **constraints: Any) -> Any:
    """A field with this tag; the module's docstring says what it means."""
    return tagged("resource", default, description, **constraints)
