"""The arguments and the environment of the sampler's engine: defaults, the user's keys, and the keys that selfplay sets.

sampler.py builds the engine; pooling_args.py has the arguments of one for rewards. Nothing here imports vllm, so these rules can
be tested without it.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from selfplay.config.pass_through import ENGINE_KEYS, is_plain
from selfplay.core.errors import ConfigError
from selfplay.inputs.models.engine_cache import default_cache_bytes, kv_cache_bytes
from selfplay.inputs.models.sizes import has_recurrent_layers

CPU_BLOCK = 32
_WEIGHTS = "it loads the policy of each round"
_TOKENS = "the engine gets and returns token ids and needs no tokenizer"
_NEUTRAL = "set the fields of `sampling`"
_CANARY = "the check after each weight change compares raw log-probs"

# Engine arguments that selfplay sets, each with the setting to use instead or the reason.
OWNED_KEYS: dict[str, str] = {
    "model": _WEIGHTS + "; set policy.model",
    "model_weights": _WEIGHTS,
    "load_format": _WEIGHTS + " (safetensors)",
    "hf_config_path": _WEIGHTS,
    "hf_overrides": "trainer, log-probs and sampler must use the same model: change its config.json",
    "hf_token": "set HF_TOKEN in the environment: settings are recorded",
    "revision": "set policy.revision",
    "code_revision": "set policy.revision",
    "served_model_name": "selfplay serves nothing over a network",
    "trust_remote_code": "set policy.trust_remote_code",
    "dtype": "set policy.dtype",
    "seed": "set seed; each response has its own seed",
    "tokenizer": _TOKENS,
    "tokenizer_mode": _TOKENS,
    "tokenizer_revision": _TOKENS,
    "skip_tokenizer_init": _TOKENS,
    "generation_config": _NEUTRAL,
    "override_generation_config": _NEUTRAL,
    "max_logprobs": _CANARY,
    "logprobs_mode": _CANARY,
    "runner": "the engine only samples; rewards are set under `reward`",
    "convert": "the engine only samples; rewards are set under `reward`",
}

_CODE = "it can name code, which no digest pins"
_FILES = "it names files or folders"
_ADDRESS = "it names addresses"
_MODEL = "it names another model"

# Engine arguments that can lead out of vLLM and of the policy's folder, each with the reason. All others that are not in
# ENGINE_KEYS are refused too, as not judged or without a use here.
REFUSED_KEYS: dict[str, str] = {
    "additional_config": _CODE,
    "attention_config": _CODE + "; set attention_backend",
    "aux_output_config": _CODE,
    "compilation_config": _CODE + "; set enforce_eager, optimization_level or cudagraph_capture_sizes",
    "io_processor_plugin": _CODE,
    "kernel_config": _CODE + "; set moe_backend or linear_backend",
    "logits_processors": _CODE,
    "mamba_config": _CODE + "; set mamba_backend",
    "model_class_overrides": _CODE,
    "pooler_config": _CODE,
    "quantization_config": _CODE + "; set quantization",
    "reasoning_config": _CODE,
    "reasoning_parser": _CODE,
    "reasoning_parser_plugin": _CODE,
    "scheduler_cls": _CODE,
    "structured_outputs_config": _CODE,
    "worker_cls": _CODE,
    "worker_extension_cls": _CODE,
    "allowed_local_media_path": _FILES,
    "config_format": _FILES,
    "download_dir": _FILES + "; hub models are downloaded before the engine starts (HF_HOME)",
    "ignore_patterns": _FILES,
    "log_config_file": _FILES,
    "logging_config": _FILES,
    "media_io_kwargs": _FILES,
    "mm_encoder_fp8_scale_path": _FILES,
    "mm_encoder_fp8_scale_save_path": _FILES,
    "mm_processor_kwargs": _FILES,
    "model_loader_extra_config": _FILES,
    "profiler_config": _FILES,
    "pt_load_map_location": _FILES,
    "ray_workers_use_nsight": _FILES,
    "allowed_media_domains": _ADDRESS,
    "data_parallel_address": _ADDRESS,
    "data_parallel_rpc_port": _ADDRESS,
    "ec_transfer_config": _ADDRESS,
    "fault_tolerance_config": _ADDRESS,
    "kv_events_config": _ADDRESS,
    "kv_offloading_backend": _ADDRESS,
    "kv_transfer_config": _ADDRESS,
    "master_addr": _ADDRESS,
    "master_port": _ADDRESS,
    "otlp_traces_endpoint": _ADDRESS,
    "weight_transfer_config": _ADDRESS,
    "default_mm_loras": _MODEL,
    "spec_method": _MODEL,
    "spec_model": _MODEL,
    "spec_tokens": _MODEL,
    "speculative_config": _MODEL,
}


def prepare_environment() -> None:
    """Set the environment variables that vLLM reads at import or at engine start; call it before vllm is imported.

    Raises RuntimeError when vllm has been imported already in an environment that was not prepared.
    """
    if "vllm" in sys.modules and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        raise RuntimeError("vllm was imported before prepare_environment()")
    # In process: if the engine had a child process, a killed engine would hang its caller, and a killed caller would orphan it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # It silently overrides kv_cache_memory_bytes, in units of a GiB.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    defaults = {
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about its own internals, tracebacks included
    }
    if not _has_gpu():
        # Otherwise the first request with log-probs compiles for many seconds, which gains nothing on a CPU.
        defaults |= {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def key_problems(engine: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """One message for each key of `engine` that is not passed on to vLLM (`known`: its fields), or whose value may name something
    outside it."""
    problems = []
    for key in engine:
        if key in OWNED_KEYS:
            problems.append(f"sampling.engine.{key} is not allowed, because selfplay sets it: {OWNED_KEYS[key]}")
        elif key in REFUSED_KEYS:
            problems.append(f"sampling.engine.{key} is not passed on to vLLM: {REFUSED_KEYS[key]}")
        elif key not in known:
            near = difflib.get_close_matches(key, sorted(ENGINE_KEYS.keys() & set(known)), n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"sampling.engine.{key} is not an engine argument of the installed vLLM{meant}")
        elif key not in ENGINE_KEYS:
            problems.append(
                f"sampling.engine.{key} is not passed on to vLLM; selfplay passes on "
                f"{', '.join(sorted(ENGINE_KEYS.keys() & set(known)))}"
            )
        elif not is_plain(engine[key]):
            problems.append(
                f"sampling.engine.{key} is {engine[key]!r}: only numbers, flags and plain words (letters, digits, - and _) are "
                "passed on to vLLM"
            )
    return problems


def resolve_dtype(dtype: str, *, on_cpu: bool) -> str:
    """ "auto" is float32 on a CPU (bfloat16 is several times slower there) and bfloat16 on a GPU."""
    return {"auto": "float32" if on_cpu else "bfloat16"}.get(dtype, dtype)


def resolve_max_model_len(engine: Mapping[str, Any], max_model_len: int | None) -> int | None:
    """The length that was set, in either place. Raises ConfigError if two different ones were set."""
    passed = engine.get("max_model_len")
    if passed is not None and max_model_len is not None and passed != max_model_len:
        raise ConfigError(
            f"sampling.engine.max_model_len is {passed}, but the sampler needs {max_model_len}", "Set only one of them."
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
    composite: bool = False,
    overrides: Mapping[str, int] | None = None,
    cpu_config: Any | None,
) -> dict[str, Any]:
    """All arguments of the engine: defaults, overridden by the user's `engine`, then those that selfplay sets.

    `dtype` is resolved; `composite`: the model has parts beside its language model, for images or sound; `overrides`: what is
    corrected in the model's config;
    `cpu_config` is the model's transformers config when the engine runs on a CPU, None on a GPU.
    Raises ConfigError for a combination that breaks seeded sampling on a CPU.
    """
    arguments: dict[str, Any] = {"enable_prefix_caching": True, "use_tqdm_on_load": False}
    if composite:
        # requests are token ids of text: without it vLLM would need the processors of the other parts, and memory for them
        arguments["language_model_only"] = True
    max_model_len = resolve_max_model_len(engine, max_model_len)
    if cpu_config is not None:
        text = cpu_config.get_text_config()
        max_model_len = text.max_position_embeddings if max_model_len is None else max_model_len
        arguments |= _cpu_defaults(text, max_model_len, dtype)
    if overrides:
        arguments["hf_overrides"] = dict(overrides)
    arguments |= engine
    if cpu_config is not None:
        _check_whole_prefills(arguments, max_model_len)
        _check_linear_attention(cpu_config, dtype)
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
    """Measured on tiny models: eager mode loads ten times faster than compiled and samples as fast; blocks of 32 are fastest."""
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK,
        "kv_cache_memory_bytes": default_cache_bytes(kv_cache_bytes(config, max_model_len, dtype)),
        # On a CPU a seeded request whose prefill is split over two steps crashes the engine: never split one.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(2048, max_model_len),
        # vLLM keeps the states of recurrent layers for prefixes only where prefills may be split
        "enable_prefix_caching": not has_recurrent_layers(config),
    }


def _check_linear_attention(config: Any, dtype: str) -> None:
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    if "linear_attention" in kinds and dtype != "bfloat16":
        raise ConfigError(
            f"on a CPU vLLM computes linear attention in bfloat16 only, and the engine's dtype is {dtype}",
            "Set policy.dtype: bfloat16, or sample on a GPU.",
        )


def _check_whole_prefills(arguments: Mapping[str, Any], max_model_len: int | None) -> None:
    assert max_model_len is not None
    batched = arguments["max_num_batched_tokens"]
    if isinstance(batched, bool) or not isinstance(batched, int):
        raise ConfigError(f"sampling.engine.max_num_batched_tokens is {batched!r}, which is not a number of tokens")
    if arguments["enable_chunked_prefill"] or batched < max_model_len:
        raise ConfigError(
            "on a CPU sampling.engine must not split prefills: seeded requests would crash the engine",
            f"Remove enable_chunked_prefill, and remove max_num_batched_tokens or set it to {max_model_len} or more.",
        )
