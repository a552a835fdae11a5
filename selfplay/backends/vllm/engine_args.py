"""With which arguments and environment the sampler's engine is built: defaults, the user's keys, and who owns which.

Beside `vllm_sampler.py`, which builds the engine; nothing here imports vllm, so the rules can be tested by themselves.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.inputs.models.engine_cache import default_cache_bytes, kv_cache_bytes

_BLOCK = 32
_WEIGHTS = "the policy's folder and its weight changes are selfplay's"
_TOKENS = "token ids go in and come out, the engine needs no tokenizer"
_NEUTRAL = "unset sampling fields are vLLM's neutral values, stop ids come with each request"
_CANARY = "the check after a weight change compares raw log-probs"

# Engine arguments that selfplay sets itself, each with the reason or the setting to use instead.
OWNED_KEYS: dict[str, str] = {
    "model": _WEIGHTS + "; set policy.model",
    "model_weights": _WEIGHTS,
    "load_format": _WEIGHTS + " (safetensors)",
    "hf_config_path": _WEIGHTS,
    "hf_overrides": "trainer, log-probs and sampler must see the same model: change its config.json",
    "hf_token": "secrets stay in the environment (HF_TOKEN): settings are recorded",
    "revision": "set policy.revision",
    "code_revision": "set policy.revision",
    "served_model_name": "nothing is served over a network",
    "trust_remote_code": "set policy.trust_remote_code",
    "dtype": "set policy.dtype",
    "seed": "set seed; each response has a seed of its own",
    "tokenizer": _TOKENS,
    "tokenizer_mode": _TOKENS,
    "tokenizer_revision": _TOKENS,
    "skip_tokenizer_init": _TOKENS,
    "generation_config": _NEUTRAL,
    "override_generation_config": _NEUTRAL,
    "max_logprobs": _CANARY,
    "logprobs_mode": _CANARY,
    "runner": "the engine samples; rewards have a section of their own",
    "convert": "the engine samples; rewards have a section of their own",
}


def prepare_environment() -> None:
    """Set the environment variables that vLLM reads at import or at engine start; call it before vllm is imported.

    Raises RuntimeError when vllm has been imported already in an environment that was not prepared.
    """
    if "vllm" in sys.modules and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        raise RuntimeError("vllm was imported before prepare_environment()")
    # In process: with a child of its own a killed engine hangs the caller for ever, and a killed caller orphans it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # It overrules kv_cache_memory_bytes without a word, and its unit is a GiB.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    defaults = {
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about its own internals, tracebacks included
    }
    if not _has_gpu():
        # The first request with log-probs would otherwise compile for many seconds, for nothing on a CPU.
        defaults |= {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def key_problems(engine: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """One message for each key of `engine` that vLLM does not know (`known`: its fields) or that selfplay owns."""
    problems = []
    for key in engine:
        if key in OWNED_KEYS:
            problems.append(f"sampling.engine.{key} is set by selfplay: {OWNED_KEYS[key]}")
        elif key not in known:
            near = difflib.get_close_matches(key, sorted(set(known) - OWNED_KEYS.keys()), n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"sampling.engine.{key} is no engine argument of this vLLM{meant}")
    return problems


def resolve_dtype(dtype: str, *, on_cpu: bool) -> str:
    """ "auto" is float32 on a CPU (bfloat16 is several times slower there) and bfloat16 on a GPU."""
    return {"auto": "float32" if on_cpu else "bfloat16"}.get(dtype, dtype)


def resolve_max_model_len(engine: Mapping[str, Any], max_model_len: int | None) -> int | None:
    """The one length asked for, wherever it was said. Raises ConfigError when it was said twice, differently."""
    passed = engine.get("max_model_len")
    if passed is not None and max_model_len is not None and passed != max_model_len:
        raise ConfigError(
            f"sampling.engine.max_model_len is {passed}, but the sampler is asked for {max_model_len}", "Set only one."
        )
    return max_model_len if passed is None else passed


def engine_arguments(
    engine: Mapping[str, Any],
    *,
    folder: str,
    dtype: str,
    max_model_len: int | None,
    seed: int,
    trust_remote_code: bool,
    max_logprobs: int,
    cpu_config: Any | None,
) -> dict[str, Any]:
    """All arguments of the engine: our defaults, overruled by the user's `engine`, then what selfplay owns.

    `dtype` is resolved; `cpu_config` is the model's transformers config when the engine runs on a CPU, None on a GPU.
    Raises ConfigError for a combination that breaks seeded sampling on a CPU.
    """
    arguments: dict[str, Any] = {"enable_prefix_caching": True, "use_tqdm_on_load": False}
    max_model_len = resolve_max_model_len(engine, max_model_len)
    if cpu_config is not None:
        text = cpu_config.get_text_config()
        max_model_len = text.max_position_embeddings if max_model_len is None else max_model_len
        arguments |= _cpu_defaults(text, max_model_len, dtype)
    arguments |= engine
    if cpu_config is not None:
        _check_whole_prefills(arguments, max_model_len)
    return arguments | {
        "model": folder,
        "dtype": dtype,
        "max_model_len": max_model_len,
        "seed": seed,
        "trust_remote_code": trust_remote_code,
        "max_logprobs": max_logprobs,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
    }


def _cpu_defaults(config: Any, max_model_len: int, dtype: str) -> dict[str, Any]:
    """Measured on tiny models: eager loads ten times faster than compiled and samples as fast; blocks of 32 do best."""
    return {
        "enforce_eager": True,
        "block_size": _BLOCK,
        "kv_cache_memory_bytes": default_cache_bytes(kv_cache_bytes(config, max_model_len, dtype)),
        # A seeded request whose prefill is split over two steps kills the engine on a CPU: never split one.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(2048, max_model_len),
    }


def _check_whole_prefills(arguments: Mapping[str, Any], max_model_len: int | None) -> None:
    assert max_model_len is not None
    batched = arguments["max_num_batched_tokens"]
    if isinstance(batched, bool) or not isinstance(batched, int):
        raise ConfigError(f"sampling.engine.max_num_batched_tokens is {batched!r}, which is no number of tokens")
    if arguments["enable_chunked_prefill"] or batched < max_model_len:
        raise ConfigError(
            "on a CPU sampling.engine must not split prefills: seeded requests die of it",
            f"Leave out enable_chunked_prefill, and max_num_batched_tokens or set it to {max_model_len} or more.",
        )
