"""Sizes as transformers reads them, and limits of positions."""

from __future__ import annotations

import json

import pytest
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    Qwen3_5Config,
    RobertaConfig,
    T5Config,
)

from selfplay.core.errors import ModelError
from selfplay.inputs.models.sizes import (
    engine_overrides,
    has_recurrent_layers,
    has_stray_kv_heads,
    load_config,
    position_limit,
    tokenizer_limit,
    vocab_size,
)
from tests.helpers.tiny import make_tokenizer


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (GPT2Config(n_positions=512), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=None), 514),
        (AutoConfig.for_model("longformer", max_position_embeddings=4098, pad_token_id=1), 4096),
        (AutoConfig.for_model("bloom"), None),
        (T5Config(), None),
        (Gemma3Config(), 131072),
        (Qwen3_5Config(text_config={"max_position_embeddings": 1000}), 1000),
        (LlamaConfig(max_position_embeddings=10**30), None),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_position_limits(config, limit):
    assert position_limit(config) == limit


def test_long_rope_is_used_up_to_its_original_length():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [4.0] * 16, "rope_theta": 10000.0}
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    config = Phi3Config(
        **sizes, max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=rope
    )
    assert position_limit(config) == 4096
    assert position_limit(Phi3Config(**sizes, max_position_embeddings=131072)) == 131072


def test_a_tokenizers_limit_of_1e30_is_none():
    tokenizer = make_tokenizer()
    assert tokenizer.model_max_length > 1e29
    assert tokenizer_limit(tokenizer) is None
    tokenizer.model_max_length = 512
    assert tokenizer_limit(tokenizer) == 512


def test_a_model_without_a_vocabulary_is_no_policy(tmp_path):
    with pytest.raises(ModelError, match="has no vocab_size"):
        vocab_size(AutoConfig.for_model("vit"), tmp_path)


def test_defaults_that_a_published_config_leaves_out(tmp_path):
    text = {"model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 1}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"model_type": "siglip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_config(tmp_path)
    assert (vocab_size(loaded, tmp_path), position_limit(loaded)) == (262208, 131072)


@pytest.mark.parametrize("content", ['{"model_type": "none-such"}', '{"model_type": "llama", "hidden_size": "big"}'])
def test_a_config_that_transformers_cannot_read(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"transformers cannot read .*config.json"):
        load_config(tmp_path)


def test_a_kind_of_model_that_is_not_known_is_read_without_its_code(tmp_path):
    document = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}, "vocab_size": 7}
    (tmp_path / "config.json").write_text(json.dumps(document | {"max_position_embeddings": 11}))
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')\n")
    config = load_config(tmp_path)
    assert vocab_size(config, tmp_path) == 7
    assert position_limit(config) == 11


def test_a_config_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON: .* line 1 column 2"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "stray"),
    [
        ("gpt_neox", {"num_key_value_heads": 1}, True),
        ("gpt_neox", {}, False),
        ("llama", {"num_key_value_heads": 1}, False),
        ("falcon", {"num_kv_heads": 1}, False),
    ],
)
def test_a_number_of_heads_that_the_model_does_not_read(kind, settings, stray):
    config = CONFIG_MAPPING[kind](**settings)
    assert has_stray_kv_heads(config) is stray
    assert engine_overrides(config) == ({"num_key_value_heads": config.num_attention_heads} if stray else {})


def test_a_window_that_the_engine_counts_otherwise():
    assert engine_overrides(CONFIG_MAPPING["cohere2"](sliding_window=32)) == {"sliding_window": 31}
    assert engine_overrides(CONFIG_MAPPING["mistral"](sliding_window=32)) == {}


@pytest.mark.parametrize(
    ("kind", "recurrent"),
    [
        ("qwen3_5", True), ("qwen3_next", True), ("mamba", True), ("mamba2", True), ("bamba", True), ("jamba", True),
        ("recurrent_gemma", True), ("llama", False), ("gemma3", False), ("gemma2", False), ("gpt_oss", False), ("gpt2", False),
    ],
)  # fmt: skip
def test_recurrent_layers(kind: str, recurrent: bool) -> None:
    assert has_recurrent_layers(AutoConfig.for_model(kind)) is recurrent
