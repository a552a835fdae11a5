"""Log-probs, answers and embeddings with real tiny models, held against the plainest forward pass one can write."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfplay.backends.transformers import logprobs as module
from selfplay.backends.transformers import model_cache as causal_model
from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.logprobs import TorchLogprobs
from selfplay.core.errors import BackendError, ConfigError, ModelError
from selfplay.core.protocols import LogprobItem, Question
from tests.helpers.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("policies")
    return [str(make_tiny_llama(root / f"m{seed}", seed=seed, tied=seed == 1)) for seed in range(2)]


@pytest.fixture(scope="module")
def items():
    draw = random.Random(0)

    def tokens(count):
        return [draw.randrange(320) for _ in range(count)]

    sizes = [(1, 1), (3, 40), (200, 5), (30, 30), (5, 300), (8, 2), (30, 30), (4, 0)]
    return [LogprobItem(f"r{i}", tokens(p), tokens(r)) for i, (p, r) in enumerate(sizes)]


def plain_logp(folder, item) -> float:
    """log p(response | prompt): one row, all logits, no padding."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([item.prompt_token_ids + item.token_ids])
    with torch.inference_mode():
        logps = torch.log_softmax(model(input_ids=ids).logits.double(), dim=-1)[0]
    start = len(item.prompt_token_ids)
    return sum(float(logps[start + i - 1, token]) for i, token in enumerate(item.token_ids))


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
@pytest.mark.parametrize("which", [0, 1], ids=["untied", "tied"])
def test_agrees_with_the_plain_forward_in_any_batch(folders, items, which, batch_tokens):
    table = TorchLogprobs(batch_tokens=batch_tokens).logprobs(folders[which], "d", items)
    assert table["response_id"].to_pylist() == [item.response_id for item in items]
    assert table["num_tokens"].to_pylist() == [len(item.token_ids) for item in items]
    for item, logp in zip(items, table["logp"].to_pylist(), strict=True):
        assert logp == pytest.approx(plain_logp(folders[which], item), abs=1e-4 * max(1, len(item.token_ids)), rel=0)
    assert table["logp"].to_pylist()[-1] == 0.0


def test_softmax_in_pieces_is_the_same(folders, items, monkeypatch):
    whole = TorchLogprobs().logprobs(folders[0], "d", items)["logp"].to_pylist()
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 7 * 320)
    assert TorchLogprobs().logprobs(folders[0], "d", items)["logp"].to_pylist() == pytest.approx(whole, abs=1e-4)


def test_logits_only_where_a_response_is(folders, items, monkeypatch):
    shapes = []
    backend = TorchLogprobs()
    backend.logprobs(folders[0], "d", items[:1])
    forward = backend._cache.model.lm_head.forward
    monkeypatch.setattr(
        backend._cache.model.lm_head, "forward", lambda hidden: shapes.append(hidden.shape) or forward(hidden)
    )
    backend.logprobs(folders[0], "d", [items[2]])
    assert [tuple(shape[:2]) for shape in shapes] == [(1, 5)]


def test_the_logits_of_a_batch_are_bounded(folders, items, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOGITS", 60 * 320)
    backend, widths = TorchLogprobs(batch_tokens=100_000), []
    inner = backend._forward
    monkeypatch.setattr(backend, "_forward", lambda rows: widths.append(len(rows)) or inner(rows))
    table = backend.logprobs(folders[0], "d", items)
    assert sum(widths) == 7 and len(widths) > 2
    assert table.num_rows == len(items)


def test_the_last_model_is_kept_by_digest(folders, items, monkeypatch):
    loads = []
    load = causal_model.load
    monkeypatch.setattr(causal_model, "load", lambda folder, *rest: loads.append(folder) or load(folder, *rest))
    backend = TorchLogprobs()
    first = backend.logprobs(folders[0], "a", items)
    assert backend.logprobs(folders[0], "a", items).equals(first)
    second = backend.logprobs(folders[1], "b", items)
    assert second["logp"].to_pylist() != first["logp"].to_pylist()
    assert loads == folders
    backend.release()
    assert backend._cache.model is None
    assert backend.logprobs(folders[0], "a", items).equals(first)
    assert loads == [*folders, folders[0]]


def test_a_load_that_fails_leaves_nothing_behind(folders, items, tmp_path):
    backend = TorchLogprobs()
    backend.logprobs(folders[0], "a", items)
    with pytest.raises(ModelError, match=r"has no config.json"):
        backend.logprobs(str(tmp_path), "b", items)
    assert backend.logprobs(folders[0], "a", items).num_rows == len(items)


def test_missing_weights_are_refused(tmp_path, items):
    from safetensors.torch import load_file, save_file

    folder = make_tiny_llama(tmp_path / "bad")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights \(lm_head.weight\)"):
        TorchLogprobs().logprobs(str(folder), "a", items)


def test_what_the_model_cannot_take(folders, tmp_path):
    backend = TorchLogprobs()
    for item, message in (
        (LogprobItem("r7", [], [1]), "r7 has a prompt without tokens"),
        (LogprobItem("r7", [1], [320]), "r7 has the token id 320"),
        (LogprobItem("r7", [1] * 500, [1] * 13), "r7 has 513 tokens"),
    ):
        with pytest.raises(BackendError, match=message):
            backend.logprobs(folders[0], "a", [item])
    nan = make_tiny_llama(tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(nan, dtype=torch.float32)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(nan)
    with pytest.raises(BackendError, match=r"r7 under .* is nan"):
        backend.logprobs(str(nan), "nan", [LogprobItem("r7", [1], [2])])


def test_dtype_is_what_was_said(folders, items):
    wide, narrow = TorchLogprobs(dtype="float32"), TorchLogprobs(dtype="bfloat16")
    exact = wide.logprobs(folders[0], "a", items)["logp"].to_pylist()
    near = narrow.logprobs(folders[0], "a", items)["logp"].to_pylist()
    assert wide._cache.model.dtype == torch.float32 and narrow._cache.model.dtype == torch.bfloat16
    for item, a, b in zip(items, exact, near, strict=True):
        assert a == pytest.approx(b, abs=0.2 * max(1, len(item.token_ids)))
    with pytest.raises(ConfigError, match="dtype is 'int8'"):
        TorchLogprobs(dtype="int8")


def plain_states(folder, ids):
    """Next-token probabilities (V) and mean last hidden state (D) of one row, no padding."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    # transformers gives the last of the hidden states after the final norm
    return torch.softmax(output.logits[0, -1].double(), dim=-1), output.hidden_states[-1][0].double().mean(0)


def test_a_response_alone_is_judged_after_the_start_token_over_the_same_tokens(folders, items):
    table = TorchLogprobs(batch_tokens=300).logprobs_alone(folders[0], "d", items, 257)
    assert table["num_tokens"].to_pylist() == [len(item.token_ids) for item in items]
    for item, logp in zip(items, table["logp"].to_pylist(), strict=True):
        alone = LogprobItem(item.response_id, [257], item.token_ids)
        assert logp == pytest.approx(plain_logp(folders[0], alone), abs=1e-4 * max(1, len(item.token_ids)), rel=0)


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_probability_of_an_answer_of_one_token(folders, items, batch_tokens):
    questions = [Question(item.response_id, item.prompt_token_ids) for item in items]
    table = TorchLogprobs(batch_tokens=batch_tokens).yes_probability(folders[1], "d", questions, [[7], [200], [3]])
    assert table["response_id"].to_pylist() == [item.response_id for item in items]
    for item, found in zip(items, table["probability"].to_pylist(), strict=True):
        probabilities, _ = plain_states(folders[1], item.prompt_token_ids)
        assert found == pytest.approx(float(probabilities[[3, 7, 200]].sum()), abs=1e-5, rel=1e-4)


def test_probability_of_a_spelled_answer_is_the_product_over_its_tokens(folders, items):
    questions = [Question(item.response_id, item.prompt_token_ids) for item in items]
    answers = [[7, 8, 9], [40, 2]]
    table = TorchLogprobs(batch_tokens=300).yes_probability(folders[0], "d", questions, answers)
    for item, found in zip(items, table["probability"].to_pylist(), strict=True):
        expected = 0.0
        for answer in answers:
            product, row = 1.0, list(item.prompt_token_ids)
            for token in answer:
                product *= float(plain_states(folders[0], row)[0][token])
                row.append(token)
            expected += product
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_embeddings_are_means_over_real_tokens(folders, items, batch_tokens):
    table = TorchLogprobs(batch_tokens=batch_tokens).embeddings(folders[0], "d", items)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<item: float>[64]"
    for item, found in zip(items, table["embedding"].to_pylist(), strict=True):
        _, mean = plain_states(folders[0], item.prompt_token_ids + item.token_ids)
        assert found == pytest.approx(mean.tolist(), abs=1e-5)


def test_embeddings_use_the_policy_that_is_loaded_and_no_lm_head(folders, items, monkeypatch):
    loads = []
    load = causal_model.load
    monkeypatch.setattr(causal_model, "load", lambda folder, *rest: loads.append(folder) or load(folder, *rest))
    backend = TorchLogprobs()
    backend.logprobs(folders[0], "a", items)
    monkeypatch.setattr(backend._cache.model.lm_head, "forward", lambda hidden: pytest.fail("the LM head ran"))
    backend.embeddings(folders[0], "a", items)
    assert loads == [folders[0]]


def test_an_encoder_can_embed_and_nothing_else(tmp_path, items):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    backend = TorchLogprobs()
    table = backend.embeddings(str(tmp_path / "encoder"), "e", items)
    for item, found in zip(items, table["embedding"].to_pylist(), strict=True):
        with torch.inference_mode():
            states = encoder(input_ids=torch.tensor([item.prompt_token_ids + item.token_ids])).last_hidden_state
        assert found == pytest.approx(states[0].mean(0).tolist(), abs=1e-5)
    with pytest.raises(ModelError):
        backend.logprobs(str(tmp_path / "encoder"), "e", items)


def test_what_answers_and_embeddings_cannot_take(folders, tmp_path):
    backend = TorchLogprobs()
    with pytest.raises(BackendError, match="the question about response r7 has the token id 320"):
        backend.yes_probability(folders[0], "a", [Question("r7", [1])], [[320]])
    with pytest.raises(BackendError, match="the question about response r7 has 513 tokens"):
        backend.yes_probability(folders[0], "a", [Question("r7", [1] * 512)], [[3]])
    with pytest.raises(BackendError, match="response r7 has no tokens"):
        backend.embeddings(folders[0], "a", [LogprobItem("r7", [], [])])
    nan = make_tiny_llama(tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(nan, dtype=torch.float32)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(nan)
    with pytest.raises(BackendError, match=r"answer about response r7 under .* has probability nan"):
        backend.yes_probability(str(nan), "nan", [Question("r7", [1])], [[3]])
    with pytest.raises(BackendError, match=r"embedding of response r7 under .* is not finite"):
        backend.embeddings(str(nan), "nan", [LogprobItem("r7", [1], [2])])


def test_batches():
    assert token_batches([], 10) == []
    assert token_batches([3, 9, 3, 3, 50], 10) == [[4], [1], [0, 2, 3]]
    assert token_batches([5, 5, 5], 100, rows_share=[1, 4, 1], batch_share=8) == [[0, 1], [2]]
    # a 32nd of the budget may be padding: 10 tokens
    assert token_batches([20, 15, 15], 320) == [[0, 1, 2]]
    assert token_batches([20, 14, 15], 320) == [[0, 2], [1]]
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        token_batches([1], 0)
