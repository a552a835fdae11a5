"""Which modules may carry adapters."""

from __future__ import annotations

import pytest

from selfplay.core.errors import ConfigError
from selfplay.inputs.models.loading_check import check_policy_loads
from selfplay.inputs.models.lora_targets import check_lora_targets
from tests.helpers.families import FAMILIES, make_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    names = ("llama", "llama-tied", "gpt-neox", "gpt2", "qwen3-moe")
    return {name: check_policy_loads(make_model(FAMILIES[name], root / name)).model for name in names}


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", "all-linear"),
        ("llama-tied", ["q_proj", "v_proj"]),
        ("llama", ["embed_tokens", "q_proj"]),
        ("llama", r".*\.(q|v)_proj"),
        ("gpt-neox", ["query_key_value"]),
        ("gpt2", ["c_attn"]),
        ("qwen3-moe", "all-linear"),
    ],
)
def test_taken(models, name, targets):
    check_lora_targets(targets, models[name])


@pytest.mark.parametrize(
    ("name", "targets", "why"),
    [
        ("llama-tied", ["q_proj", "embed_tokens"], "its weight is tied"),
        ("llama-tied", r".*(q_proj|embed_tokens)", "its weight is tied"),
        ("gpt2", ["wte"], "its weight is tied"),
        ("llama", ["lm_head"], "it is the output layer"),
        ("gpt-neox", ["lm_head"], "it is the output layer"),
        ("gpt-neox", ["query_key_value", "lm_head"], "it is the output layer"),
        ("llama", ["q_porj"], "it has no such module"),
        ("qwen3-moe", ["gate_proj", "up_proj", "down_proj"], "it has no such module"),
    ],
)
def test_refused_with_the_reason_and_what_there_is(models, name, targets, why):
    with pytest.raises(ConfigError, match=why) as refusal:
        check_lora_targets(targets, models[name])
    assert "Use all-linear or a list from" in refusal.value.hint
