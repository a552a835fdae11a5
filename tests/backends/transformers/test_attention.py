"""Which attention implementation a model gets, and the check against eager attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    GPTNeoConfig,
    LlamaConfig,
    PretrainedConfig,
    T5GemmaConfig,
    VaultGemmaConfig,
)

from selfplay.backends.transformers.attention import check_attention, has_full_causal_attention, needed_attention
from selfplay.backends.transformers.loading import load_complete
from selfplay.core.errors import BackendError
from tests.helpers.families import FAMILIES, Family, make_model

ROWS = [[5 + place % 200 for place in range(70)], [9 + 7 * place % 200 for place in range(40)]]
SINKS = Family(
    "gpt_oss",
    {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
    attention=3.0,
)


def test_a_soft_cap_needs_eager_attention_wherever_it_stands():
    assert needed_attention(Gemma2Config()) == "eager"
    assert needed_attention(VaultGemmaConfig()) == "eager"
    assert needed_attention(T5GemmaConfig()) == "eager"
    assert needed_attention(Gemma3Config(text_config={"attn_logit_softcapping": 50.0})) == "eager"
    assert needed_attention(Gemma3Config()) is None
    assert needed_attention(Gemma2Config(attn_logit_softcapping=None)) is None
    assert needed_attention(LlamaConfig()) is None


def load(folder: Path, kind=AutoModelForCausalLM, dtype: torch.dtype = torch.float32):
    return load_complete(kind, folder, dtype, "policy").eval()


@pytest.mark.parametrize("reward", [False, True])
def test_sdpa_on_a_model_with_a_soft_cap_is_refused_and_not_chosen(tmp_path, reward):
    folder = make_model(FAMILIES["gemma2"], tmp_path, reward=reward)
    model = load(folder, AutoModelForSequenceClassification if reward else AutoModelForCausalLM)
    assert model.config._attn_implementation == "eager"
    check_attention(model, str(folder), ROWS)
    model.set_attn_implementation("sdpa")
    with pytest.raises(BackendError, match=r"(?s)'sdpa' computes another function than 'eager'.*attn_implementation"):
        check_attention(model, str(folder), ROWS)
    # in a narrower dtype a cap shows too
    with pytest.raises(BackendError, match=r"allowed in torch\.bfloat16"):
        check_attention(model.to(torch.bfloat16), str(folder), ROWS)


@pytest.mark.parametrize("alibi", [False, True])
def test_a_model_that_cannot_exchange_its_attention_is_compared_too(tmp_path, alibi):
    """Falcon, whose eager attention adds the ALiBi bias twice in transformers 5."""
    model = load(make_model(Family("falcon", {"alibi": alibi, "new_decoder_architecture": False}), tmp_path))
    assert not model._can_set_attn_implementation() and model.config._attn_implementation == "sdpa"
    if alibi:
        with pytest.raises(BackendError, match="'sdpa' computes another function than 'eager'"):
            check_attention(model, str(tmp_path), ROWS)
    else:
        check_attention(model, str(tmp_path), ROWS)
    assert model.config._attn_implementation == "sdpa"


def test_attention_sinks_get_eager_attention(tmp_path):
    model = load(make_model(SINKS, tmp_path))
    assert model.config._attn_implementation == "eager"
    assert all(layer.self_attn.sinks.abs().sum() > 0 for layer in model.model.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral", "qwen3-moe"])
def test_sdpa_stays_where_it_is_exact_and_the_model_is_as_it_was(name, dtype, tmp_path):
    model = load(make_model(FAMILIES[name], tmp_path), dtype=dtype)
    check_attention(model, str(tmp_path), [*ROWS, [3] * 3000])
    assert model.config._attn_implementation == "sdpa"


def test_a_models_own_config_may_ask_for_eager_attention(tmp_path):
    import json

    folder = make_model(FAMILIES["llama"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    assert load(folder).config._attn_implementation == "eager"


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LOCAL = GPTNeoConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8
)


@pytest.mark.parametrize(
    ("config", "has"),
    [
        (LlamaConfig(**SMALL, intermediate_size=32), True),
        (FalconConfig(**SMALL, alibi=False), True),
        (FalconConfig(**SMALL, alibi=True), False),
        (BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2), False),
        (LOCAL, False),
        (BertConfig(**SMALL, intermediate_size=32), False),
    ],
    ids=["llama", "falcon", "falcon alibi", "bloom", "gpt-neo", "bert"],
)
def test_what_has_full_causal_attention(config: PretrainedConfig, has: bool) -> None:
    """A model that attends by distance, or in both directions, agrees with a plain pass on some rows and not on others."""
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    assert has_full_causal_attention(model) is has
