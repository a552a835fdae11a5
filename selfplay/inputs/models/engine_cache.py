"""Size of the cache for keys and values of an engine on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.inputs.models.sizes import has_stray_kv_heads

_MIB = 1 << 20
_GIB = 1 << 30
_BLOCK = 32


def cpu_cache_bytes(engine: Mapping[str, Any], config: Any, max_model_len: int, dtype: str) -> tuple[int, int]:
    """Bytes of the cache for keys and values that an engine on a CPU is given, and the least that one sequence of
    `max_model_len` tokens takes. `config` is a transformers config, `dtype` resolved.

    Raises ConfigError for a kv_cache_memory_bytes that is not a number of bytes.
    """
    least = kv_cache_bytes(config.get_text_config(), max_model_len, dtype)
    given = engine.get("kv_cache_memory_bytes")
    if given is None:
        return default_cache_bytes(least), least
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ConfigError(f"sampling.engine.kv_cache_memory_bytes is {given!r}, which is not a number of bytes")
    return given, least


def default_cache_bytes(one_sequence: int) -> int:
    """Four full sequences while that is small; never less than one, which vLLM would refuse."""
    return max(64 * _MIB, min(4 * one_sequence, max(one_sequence, _GIB)))


def kv_cache_bytes(config: Any, num_tokens: int, dtype: str) -> int:
    """Bytes that keys and values of `num_tokens` tokens take, rounding to blocks and the block that vLLM keeps empty
    included."""
    # Both are optional in a config: without them there is one head of keys for each head of queries.
    heads = None if has_stray_kv_heads(config) else getattr(config, "num_key_value_heads", None)
    heads = heads or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = 4 if dtype == "float32" else 2
    return 2 * config.num_hidden_layers * heads * size * width * (num_tokens + 2 * _BLOCK)
