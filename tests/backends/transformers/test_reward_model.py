"""The reward model with real tiny models: the plain forward's numbers in any batch, a reason where there is none."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from selfplay.backends.transformers.reward_model import RewardModel
from selfplay.core.errors import ConfigError, ModelError
from selfplay.core.protocols import ScoreItem
from tests.helpers.tiny import make_tiny_llama, make_tiny_reward_model


@pytest.fixture(scope="module", params=[True, False], ids=["pad", "no-pad"])
def folder(request, tmp_path_factory):
    return make_tiny_reward_model(tmp_path_factory.mktemp("reward"), pad_token=request.param)


def items(responses: list[str]) -> list[ScoreItem]:
    user = {"role": "user", "content": "How are you?"}
    return [ScoreItem(f"r{i}", [user], text) for i, text in enumerate(responses)]


TEXTS = ["", "a", "fine, thank you", "b" * 90, "été 😀", "a <|end|> typed", "c" * 40, "fine, thank you!"]


def plain_scores(folder, texts: list[str]) -> list[float]:
    """One by one with nothing but transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for item in items(texts):
        messages = [*item.messages, {"role": "assistant", "content": item.response}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores.append(float(model(input_ids=ids).logits[0, 0]))
    return scores


def test_batched_is_one_by_one_is_plain_transformers(folder):
    batched = RewardModel(str(folder)).score(items(TEXTS))
    singly = RewardModel(str(folder), batch_tokens=1).score(items(TEXTS))
    assert batched["response_id"].to_pylist() == [f"r{i}" for i in range(len(TEXTS))]
    assert batched["drop_reason"].to_pylist() == [None] * len(TEXTS)
    assert batched["reward"].to_pylist() == pytest.approx(singly["reward"].to_pylist(), abs=1e-5)
    kept = [i for i, text in enumerate(TEXTS) if "<|" not in text]
    plain = plain_scores(folder, [TEXTS[i] for i in kept])
    assert [batched["reward"][i].as_py() for i in kept] == pytest.approx(plain, abs=1e-5)
    assert len({round(score, 3) for score in plain}) == len(plain), "a model that scores all alike would prove nothing"


def test_padding_never_stands_for_a_last_token(tmp_path):
    # Rows that end with token 0, 1, 2, ...: any fixed choice of a padding token would meet its equal.
    model = RewardModel(str(make_tiny_reward_model(tmp_path / "reward", pad_token=False)))
    rows = [[5, 6, end][: end % 3] + [end] for end in range(8)]  # noqa: RUF005
    assert model._forward(rows) == pytest.approx([model._forward([row])[0] for row in rows], abs=1e-5)


def test_too_long_is_dropped_never_cut(folder):
    model = RewardModel(str(folder))
    assert model.rows.max_length == 512
    room = 512 - len(model.rows.render(items([""])[0])[0])
    table = model.score(items(["x" * room, "x" * (room + 1), "y"]))
    assert table["drop_reason"].to_pylist() == [None, "too_long_for_reward_model", None]
    assert [reward is None for reward in table["reward"].to_pylist()] == [False, True, False]
    short = RewardModel(str(folder), max_length=30).score(items(["x" * 30]))
    assert short["drop_reason"].to_pylist() == ["too_long_for_reward_model"]
    with pytest.raises(ConfigError, match="max_length is 513; the reward model takes at most 512"):
        RewardModel(str(folder), max_length=513)


def test_the_final_answer_is_seen_or_everything(folder):
    thoughts = items(["<think>long</think>\n\nfine", "fine", "<think>endless"])
    asked = [
        replace(thoughts[0], final_answer="fine"),
        thoughts[1],
        replace(thoughts[2], no_answer="unclosed_thinking"),
    ]
    final = RewardModel(str(folder)).score(asked)
    assert final["drop_reason"].to_pylist() == [None, None, "unclosed_thinking"]
    assert final["reward"][0].as_py() == pytest.approx(final["reward"][1].as_py(), abs=1e-5)
    full = RewardModel(str(folder), sees="full").score(asked)
    assert full["reward"].to_pylist() == pytest.approx(plain_scores(folder, [t.response for t in thoughts]), abs=1e-5)
    with pytest.raises(ConfigError, match=r"reward.sees is 'all'"):
        RewardModel(str(folder), sees="all")


def test_scores_that_are_not_finite_are_no_rewards(folder, tmp_path):
    bad = shutil.copytree(folder, tmp_path / "bad")
    model = AutoModelForSequenceClassification.from_pretrained(bad, dtype=torch.float32)
    token = AutoTokenizer.from_pretrained(bad)("!")["input_ids"][0]
    model.model.embed_tokens.weight.data[token] = float("nan")
    model.save_pretrained(bad)
    table = RewardModel(str(bad)).score(items(["fine", "fine!", "fin"]))
    assert table["drop_reason"].to_pylist() == [None, "reward_not_finite", None]
    assert table["reward"][1].as_py() is None


def test_messages_that_the_template_refuses(folder, tmp_path):
    strict = shutil.copytree(folder, tmp_path / "strict")
    template = (strict / "chat_template.jinja").read_text()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (strict / "chat_template.jinja").write_text(refusal + template)
    (good,) = items(["a"])
    bad = ScoreItem("bad", [{"role": "system", "content": "s"}, *good.messages], "a")
    table = RewardModel(str(strict)).score([bad, good])
    reason, none = table["drop_reason"].to_pylist()
    assert reason.startswith("not_rendered: the chat template refuses") and none is None


def test_nothing_to_score(folder):
    assert RewardModel(str(folder)).score([]).num_rows == 0


def test_bfloat16_is_close(folder):
    narrow = RewardModel(str(folder), dtype="bfloat16")
    assert narrow._model.dtype == torch.bfloat16
    scores = narrow.score(items(["fine", "b" * 90]))["reward"].to_pylist()
    assert scores == pytest.approx(plain_scores(folder, ["fine", "b" * 90]), abs=0.5)
    with pytest.raises(ConfigError, match=r"reward.dtype is 'int8'"):
        RewardModel(str(folder), dtype="int8")


def test_a_model_without_its_head_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    bad = shutil.copytree(folder, tmp_path / "bad")
    tensors = load_file(bad / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="no score head"):
        RewardModel(str(bad))
    policy = make_tiny_llama(tmp_path / "policy")
    with pytest.raises(ModelError, match="not a sequence-classification model"):
        RewardModel(str(policy))
    with pytest.raises(ModelError, match="no such model folder"):
        RewardModel(str(tmp_path / "nowhere"))


def test_a_weight_that_only_the_load_misses_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    bad = shutil.copytree(folder, tmp_path / "bad")
    tensors = load_file(bad / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights \(model.layers.1.mlp.up_proj.weight\)"):
        RewardModel(str(bad))
