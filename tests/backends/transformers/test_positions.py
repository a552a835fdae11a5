"""How long a text a model takes: nothing longer reaches a position table."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from selfplay.backends.reward_rows import TOO_LONG
from selfplay.backends.transformers.positions import usable_positions
from selfplay.backends.transformers.reward_model import RewardModel
from selfplay.core.protocols import ScoreItem
from selfplay.inputs.models.sizes import load_config, position_limit
from tests.helpers.families import Family, make_model

ROBERTA = Family("roberta", {"max_position_embeddings": 66, "pad_token_id": 5})


@pytest.mark.parametrize(
    ("family", "limit"),
    [
        (ROBERTA, 60),
        (Family("xlm-roberta", {"max_position_embeddings": 66, "pad_token_id": 1}), 64),
        (Family("bert", {"max_position_embeddings": 64}), 64),
        (Family("electra", {"max_position_embeddings": 64, "embedding_size": 64}), 64),
        (Family("opt", {"max_position_embeddings": 64, "ffn_dim": 96, "word_embed_proj_dim": 64}), 64),
        (Family("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "max_position_embeddings": 64}), 64),
        (Family("llama", {"max_position_embeddings": 64}), 64),
    ],
    ids=lambda value: value.kind if isinstance(value, Family) else "",
)
def test_the_longest_text_fits_and_one_token_more_does_not_where_positions_are_a_table(family, limit, tmp_path):
    folder = make_model(family, tmp_path, reward=True)
    assert position_limit(load_config(folder)) == limit
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert usable_positions(model) == limit
    with torch.inference_mode():
        model(torch.tensor([[7] * limit]))
        if family.kind != "llama":
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.tensor([[7] * (limit + 1)]))


def test_too_long_for_a_reward_model_of_the_roberta_kind_is_dropped_with_that_reason(tmp_path):
    scorer = RewardModel(str(make_model(ROBERTA, tmp_path, reward=True)))  # its tokenizer's limit is 1e30
    items = [ScoreItem(f"r{n}", [{"role": "user", "content": "a"}], "b" * n) for n in (1, 54, 55, 56, 57, 60, 200)]
    scored = scorer.score(items).to_pylist()
    assert [row["drop_reason"] for row in scored] == [None, None, None, *[TOO_LONG] * 4]
