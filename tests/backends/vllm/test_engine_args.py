"""Defaults, the user's keys and selfplay's own: how an engine's arguments come together. No vllm needed."""

import ast
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen3NextConfig

from selfplay.backends.vllm.engine_args import (
    OWNED_KEYS,
    REFUSED_KEYS,
    engine_arguments,
    key_problems,
    prepare_environment,
    resolve_dtype,
)
from selfplay.config.pass_through import ENGINE_KEYS
from selfplay.core.errors import ConfigError
from selfplay.inputs.models.engine_cache import cpu_cache_bytes

CONFIG = LlamaConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=4096)


def arguments(engine, *, max_model_len=None, cpu_config=CONFIG, composite=False, overrides=None, dtype="float32"):
    return engine_arguments(
        engine,
        folder="/policy",
        dtype=dtype,
        max_model_len=max_model_len,
        seed=7,
        trust_remote_code=False,
        max_logprobs=20,
        composite=composite,
        overrides=overrides,
        cpu_config=cpu_config,
    )


def test_a_config_is_corrected_where_it_says_what_the_model_does_not_read():
    assert arguments({}, overrides={"num_key_value_heads": 2})["hf_overrides"] == {"num_key_value_heads": 2}
    assert "hf_overrides" not in arguments({})


def test_cpu_never_splits_a_prefill():
    made = arguments({})
    assert made["enable_chunked_prefill"] is False
    assert made["max_model_len"] == 4096 <= made["max_num_batched_tokens"]
    assert made["kv_cache_memory_bytes"] == 64 << 20


def test_cpu_cache_grows_with_the_context_so_that_a_full_sequence_fits():
    wide = LlamaConfig(hidden_size=2048, num_attention_heads=16, num_hidden_layers=24, max_position_embeddings=4096)
    one = 4096 * 24 * 2 * 2048 * 4
    assert one < arguments({}, cpu_config=wide)["kv_cache_memory_bytes"] < 1.1 * one


def test_cpu_cache_holds_four_sequences_only_while_they_are_small():
    def sizes(length, dtype="float32"):
        return cpu_cache_bytes({}, config, length, dtype)

    # the shape of a small model with a long context: 24 layers, 2 heads of keys, 64 wide
    config = LlamaConfig(hidden_size=896, num_attention_heads=14, num_key_value_heads=2, num_hidden_layers=24)
    token = 2 * 24 * 2 * 64 * 4
    assert sizes(512) == (64 << 20, token * 576)
    assert sizes(4096) == (4 * token * 4160, token * 4160)
    assert sizes(16384) == (1 << 30, token * 16448)
    assert sizes(131072) == (token * 131136, token * 131136)
    assert sizes(131072, "bfloat16")[1] == sizes(131072)[1] // 2
    assert cpu_cache_bytes({"kv_cache_memory_bytes": 5}, config, 512, "float32")[0] == 5


@pytest.mark.parametrize("value", ["4GB", True, 0, 1.5])
def test_sizes_that_are_none(value):
    with pytest.raises(ConfigError, match=r"kv_cache_memory_bytes is .* not a number of bytes"):
        cpu_cache_bytes({"kv_cache_memory_bytes": value}, CONFIG, 512, "float32")
    if value != 0:
        with pytest.raises(ConfigError, match=r"max_num_batched_tokens is .* not a number of tokens"):
            arguments({"max_num_batched_tokens": value})


def test_gpu_keeps_vllms_own_sizes():
    made = arguments({"gpu_memory_utilization": 0.5}, cpu_config=None)
    assert made["gpu_memory_utilization"] == 0.5
    assert not {"enforce_eager", "kv_cache_memory_bytes", "block_size", "enable_chunked_prefill"} & made.keys()


def test_linear_attention_on_a_cpu_needs_bfloat16_and_has_no_prefix_cache():
    config = Qwen3NextConfig(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=4096,
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="linear attention in bfloat16 only, and the engine's dtype is float32"):
        arguments({}, cpu_config=config)
    made = arguments({}, cpu_config=config, dtype="bfloat16")
    assert made["enable_prefix_caching"] is False and made["enable_chunked_prefill"] is False
    assert arguments({})["enable_prefix_caching"] is True
    assert arguments({}, cpu_config=None)["enable_prefix_caching"] is True


def test_of_a_composite_model_the_language_model_alone_is_served():
    assert arguments({}, composite=True)["language_model_only"] is True
    assert arguments({"language_model_only": False}, composite=True)["language_model_only"] is False
    assert "language_model_only" not in arguments({})


def test_the_users_keys_overrule_defaults_but_never_what_selfplay_owns():
    made = arguments({"block_size": 64, "seed": 99, "model": "other"})
    assert (made["block_size"], made["seed"], made["model"]) == (64, 7, "/policy")


@pytest.mark.parametrize("engine", [{"enable_chunked_prefill": True}, {"max_num_batched_tokens": 512}])
def test_splitting_prefills_on_a_cpu_is_refused(engine):
    with pytest.raises(ConfigError, match="must not split prefills"):
        arguments(engine)


def test_max_model_len_may_be_said_once():
    assert arguments({"max_model_len": 256})["max_model_len"] == 256
    assert arguments({"max_model_len": 256}, max_model_len=256)["max_model_len"] == 256
    with pytest.raises(ConfigError, match="max_model_len is 256, but the sampler needs 512"):
        arguments({"max_model_len": 256}, max_model_len=512)


def test_key_problems_suggest_and_explain():
    known = {"max_num_seqs", "block_size", *OWNED_KEYS}
    assert key_problems({"max_num_seqs": 8}, known) == []
    unknown, owned = key_problems({"max_num_seq": 8, "seed": 1}, known)
    assert "not an engine argument" in unknown and "did you mean max_num_seqs?" in unknown
    assert (
        owned
        == "sampling.engine.seed is not allowed, because selfplay sets it: set seed; each response has its own seed"
    )


def installed_fields():
    """Field -> annotation of the installed vLLM's EngineArgs, from its source: importing vLLM takes many seconds."""
    package = importlib.util.find_spec("vllm").submodule_search_locations[0]
    tree = ast.parse(Path(package, "engine/arg_utils.py").read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"]
    return {node.target.id: node.annotation for node in found.body if isinstance(node, ast.AnnAssign)}


def test_each_argument_of_the_installed_vllm_passes_only_if_it_was_judged():
    fields = installed_fields()
    assert len(fields) > 150
    passing = {key for key in fields if not key_problems({key: 1}, fields)}
    assert passing == ENGINE_KEYS.keys(), "keys that were judged, and no others"
    tables = [ENGINE_KEYS, OWNED_KEYS, REFUSED_KEYS]
    assert all(table.keys() <= fields.keys() for table in tables), "a key that this vLLM does not have"
    assert sum(map(len, tables)) == len({key for table in tables for key in table}), "a key in two tables"
    # an argument that a later vLLM adds
    (problem,) = key_problems({"new_plugin": 1}, [*fields, "new_plugin"])
    assert "is not passed on to vLLM; selfplay passes on " in problem


def test_no_argument_that_passes_takes_code_or_files():
    """By its annotation: flags, numbers, and words of a closed set. `str` and classes are there for the three named here, whose
    words are looked up in tables of vLLM."""
    closed = ("Backend", "BackendEnum", "DType", "HashAlgo", "Level", "Methods", "Mode", "Policy", "Strategy")
    looked_up = {"distributed_executor_backend", "model_impl", "quantization"}
    for key in ENGINE_KEYS.keys() - looked_up:
        annotation = installed_fields()[key]
        names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
        open_names = {name for name in names - {"bool", "int", "float", "list", "Literal"} if not name.endswith(closed)}
        assert not open_names, (key, ast.unparse(annotation))


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_what_leads_out_of_the_engine_is_refused_with_its_reason(key):
    (problem,) = key_problems({key: "received.ext.Ext"}, installed_fields())
    assert problem.startswith(f"sampling.engine.{key} is not passed on to vLLM: it ")
    assert any(word in problem for word in ("code", "files", "addresses", "another model"))


@pytest.mark.parametrize(
    "value",
    ["received.ext.Ext", "received/ext.py", "host:29500", "tcp://host", "module:Class", {"backend": "received.ext"}, ["a.b"]],
)  # fmt: skip
@pytest.mark.parametrize("key", ["distributed_executor_backend", "quantization", "attention_backend", "max_num_seqs"])
def test_a_value_names_nothing_outside_the_engine(key, value):
    (problem,) = key_problems({key: value}, installed_fields())
    assert "only numbers, flags and plain words" in problem


def test_values_that_pass():
    engine = {
        "max_num_seqs": 8, "gpu_memory_utilization": 0.5, "enforce_eager": True, "max_model_len": None, "quantization": "fp8",
        "kv_cache_dtype": "fp8_e4m3", "distributed_executor_backend": "mp", "cudagraph_capture_sizes": [1, 2, 4],
        "attention_backend": "FLASH_ATTN",
    }  # fmt: skip
    assert key_problems(engine, installed_fields()) == []


def test_auto_dtype_follows_the_device():
    assert [resolve_dtype("auto", on_cpu=cpu) for cpu in (True, False)] == ["float32", "bfloat16"]
    assert resolve_dtype("bfloat16", on_cpu=True) == "bfloat16"


def test_the_environment_keeps_what_the_user_set_except_what_breaks_the_engine(monkeypatch):
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    prepare_environment()
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert (os.environ["OMP_NUM_THREADS"], os.environ["VLLM_NO_USAGE_STATS"]) == ("3", "1")


def test_vllm_imported_too_early_is_an_error(monkeypatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.setitem(sys.modules, "vllm", object())
    with pytest.raises(RuntimeError, match="before prepare_environment"):
        prepare_environment()
