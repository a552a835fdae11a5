"""The arguments of an engine that computes rewards with vLLM's pooling runner. Nothing here imports vllm."""

from __future__ import annotations

from typing import Any

from selfplay.backends.vllm.engine_args import CPU_BLOCK
from selfplay.inputs.models.engine_cache import default_cache_bytes, kv_cache_bytes
from selfplay.inputs.models.sizes import engine_overrides


def pooling_arguments(
    *,
    folder: str,
    dtype: str,
    max_length: int,
    batch_tokens: int,
    trust_remote_code: bool,
    config: Any,
    weight_bytes: int,
    device_bytes: int | None,
) -> dict[str, Any]:
    """All arguments of the engine, but for the pooler's. `dtype` is resolved, `max_length` the longest row and `batch_tokens` the
    tokens of a step; `config` is the model's transformers config. `device_bytes`: memory of the GPU, None on a CPU.

    The memory is fixed: weights, and keys and values of two steps, in which the rows of one prompt find it again. So the engine
    fits beside the sampler's wherever there is room, and takes no share of the device.
    """
    text = config.get_text_config()
    # a row is never split over two steps, so that its reward does not depend on its neighbours
    step = max(batch_tokens, max_length)
    least = kv_cache_bytes(text, max_length, dtype)
    cache = max(kv_cache_bytes(text, 2 * step, dtype), default_cache_bytes(least))
    arguments: dict[str, Any] = {
        "model": folder,
        "runner": "pooling",
        # not its backend for other models: that changes classes of transformers, which may be asked for the same rewards
        "model_impl": "vllm",
        "dtype": dtype,
        "max_model_len": max_length,
        "max_num_batched_tokens": step,
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": cache,
        "trust_remote_code": trust_remote_code,
        # CUDA graphs are for small batches, and these are whole prompts
        "enforce_eager": True,
        "seed": 0,
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if text is not config:
        arguments["language_model_only"] = True
    if overrides := engine_overrides(config):
        arguments["hf_overrides"] = overrides
    if device_bytes is None:
        return arguments | {"block_size": CPU_BLOCK}
    # the size of the cache is given: vLLM only checks that as much is free before it loads
    return arguments | {"gpu_memory_utilization": min(1.0, (weight_bytes + cache) / device_bytes)}
