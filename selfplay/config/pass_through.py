"""The keys of `sampling.engine` and `training.trl` that are passed on to vLLM and TRL, with their tags. No other key is.

A configuration may come from somebody else, and some keys of these libraries name code, files, other models or addresses. So a
key passes only if it was judged and is listed here, and its value is a number, a flag or a plain word: such a value can name
nothing outside the library. The tests compare the lists with the fields of the installed libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from selfplay.config.tags import Tag

ENGINE_KEYS: dict[str, Tag] = {
    # where and how fast vLLM works: results do not depend on it
    "block_size": "resource",
    "cpu_offload_gb": "resource",
    "disable_custom_all_reduce": "resource",
    "disable_log_stats": "resource",
    "cpu_distributed_timeout_seconds": "resource",
    "distributed_executor_backend": "resource",
    "distributed_timeout_seconds": "resource",
    "enforce_eager": "resource",
    "gpu_memory_utilization": "resource",
    "kv_cache_memory_bytes": "resource",
    "max_num_batched_tokens": "resource",
    "max_num_seqs": "resource",
    "max_parallel_loading_workers": "resource",
    "pipeline_parallel_size": "resource",
    "safetensors_load_strategy": "resource",
    "tensor_parallel_size": "resource",
    "use_tqdm_on_load": "resource",
    # kernels, precision and scheduling: sampled tokens may depend on it
    "all2all_backend": "identity",
    "allow_deprecated_quantization": "identity",
    "async_scheduling": "identity",
    "attention_backend": "identity",
    "cudagraph_capture_sizes": "identity",
    "decode_context_parallel_size": "identity",
    "disable_cascade_attn": "identity",
    "disable_chunked_mm_input": "identity",
    "disable_hybrid_kv_cache_manager": "identity",
    "disable_sliding_window": "identity",
    "enable_chunked_prefill": "identity",
    "enable_eplb": "identity",
    "enable_expert_parallel": "identity",
    "enable_flashinfer_autotune": "identity",
    "enable_prefix_caching": "identity",
    "enable_sleep_mode": "identity",
    "expert_placement_strategy": "identity",
    "gdn_prefill_backend": "identity",
    "kda_decode_backend": "identity",
    "kda_prefill_backend": "identity",
    "kv_cache_dtype": "identity",
    "kv_sharing_fast_prefill": "identity",
    "language_model_only": "identity",
    "linear_backend": "identity",
    "long_prefill_token_threshold": "identity",
    "mamba_backend": "identity",
    "mamba_block_size": "identity",
    "mamba_cache_dtype": "identity",
    "mamba_cache_mode": "identity",
    "mamba_ssm_cache_dtype": "identity",
    "max_cudagraph_capture_size": "identity",
    "max_model_len": "identity",
    "max_num_scheduled_tokens": "identity",
    "model_impl": "identity",
    "moe_backend": "identity",
    "num_gpu_blocks_override": "identity",
    "optimization_level": "identity",
    "performance_mode": "identity",
    "prefill_context_parallel_size": "identity",
    "prefix_caching_hash_algo": "identity",
    "quantization": "identity",
    "scheduling_policy": "identity",
    "stream_interval": "identity",
    "use_fp64_gumbel": "identity",
    "watermark": "identity",
}
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
# A dot, slash or colon is in every name of a class, file or address.
_WORD = re.compile(r"[A-Za-z0-9_-]+")


def is_plain(value: Any) -> bool:
    """Whether a value is null, a flag, a number or a plain word, or a list or a mapping of such values."""
    if isinstance(value, Mapping):
        return all(is_plain(name) and is_plain(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float) or _WORD.fullmatch(str(value)) is not None
