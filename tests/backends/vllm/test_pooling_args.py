"""The arguments of an engine for rewards: the same model, whole rows, memory of a fixed size."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from selfplay.backends.vllm.pooling_args import pooling_arguments
from selfplay.inputs.models.engine_cache import kv_cache_bytes

LLAMA_8B = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192
)


def arguments(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "folder": "/models/reward", "dtype": "bfloat16", "max_length": 4096, "batch_tokens": 16384, "trust_remote_code": False,
        "config": LLAMA_8B, "weight_bytes": 16 << 30, "device_bytes": 80 << 30,
    }  # fmt: skip
    return pooling_arguments(**given | changes)


def test_on_a_gpu_it_takes_its_weights_and_two_steps() -> None:
    found = arguments()
    assert found["kv_cache_memory_bytes"] == kv_cache_bytes(LLAMA_8B, 2 * 16384, "bfloat16") < 5 << 30
    # what vLLM checks to be free; its default of .92 would leave no room for the sampler's engine
    assert found["gpu_memory_utilization"] == pytest.approx((16 + 4) / 80, abs=0.01)
    assert "block_size" not in found
    assert (found["runner"], found["model_impl"]) == ("pooling", "vllm")


def test_on_a_cpu_it_takes_no_share() -> None:
    found = arguments(device_bytes=None, dtype="float32", batch_tokens=2048, max_length=512)
    assert found["block_size"] == 32 and "gpu_memory_utilization" not in found


@pytest.mark.parametrize("max_length", [512, 40_000])
def test_a_row_is_never_split(max_length: int) -> None:
    found = arguments(max_length=max_length)
    assert not found["enable_chunked_prefill"] and found["max_num_batched_tokens"] == max(16384, max_length)
    assert found["kv_cache_memory_bytes"] >= kv_cache_bytes(LLAMA_8B, max_length, "bfloat16")
