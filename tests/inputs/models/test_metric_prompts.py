"""The question of Ask-LLM as token ids: what fits, what is trimmed, which answers count; and the start of a lone response."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selfplay.core.errors import ConfigError
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.metric_prompts import QUESTION, AskLlm, start_token_id, yes_token_ids
from tests.helpers.tiny import make_tokenizer

MESSAGES = [{"role": "user", "content": "Say {example}."}]
BARE = len(QUESTION) - len("{example}")


def words(*names, **special):
    """A tokenizer of whole words."""
    vocab = {name: index for index, name in enumerate(("<unk>", *names))}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special)


def test_the_question_shows_the_conversation_and_the_response_as_they_are():
    tokenizer = make_tokenizer()
    rendered = AskLlm(ChatRenderer(tokenizer), 1000).render(MESSAGES, "{example} <|end|>")
    assert not rendered.trimmed
    text = tokenizer.decode(rendered.token_ids)
    shown = "User: Say {example}.\n\nAssistant: {example} <|end|>"
    assert text == f"<|user|>{QUESTION.replace('{example}', shown)}<|end|><|assistant|>"
    # what only spells a control token is none
    assert rendered.token_ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("room", [8, 9, 40, 41])
def test_the_middle_of_what_is_too_long_is_left_out(room):
    tokenizer = make_tokenizer()
    limit = BARE + 3 + room
    # byte-level: "yes" takes three tokens
    rendered = AskLlm(ChatRenderer(tokenizer), limit + 3).render([{"role": "user", "content": "a" * 300}], "z" * 300)
    assert rendered.trimmed
    assert len(rendered.token_ids) == limit
    text = tokenizer.decode(rendered.token_ids)
    example = text[text.index("###\n") + 4 : text.index("\n###")]
    start, end = example.split("\n[...]\n")
    assert f"User: {'a' * 300}".startswith(start)
    assert ("z" * 300).endswith(end)
    assert 0 <= len(start) - len(end) <= 1
    whole = AskLlm(ChatRenderer(tokenizer), limit + 3).render([], "z" * (room - len("Assistant: ")))
    assert whole.trimmed is (room < len("Assistant: "))


def test_a_context_without_room_for_the_question_is_refused():
    with pytest.raises(ConfigError, match=r"the question takes \d+ tokens without an example; there are 97"):
        AskLlm(ChatRenderer(make_tokenizer()), 100)


def test_every_spelling_of_one_token_counts_else_yes_is_spelled_out():
    assert yes_token_ids(words("no", "yes", "Yes", "YES")) == [[2], [3], [4]]
    assert yes_token_ids(words("no", "yes")) == [[2]]
    letters = make_tokenizer()
    assert yes_token_ids(letters) == sorted(letters(text)["input_ids"] for text in ("yes", "Yes"))
    with pytest.raises(ConfigError, match="cannot write 'yes'"):
        yes_token_ids(words("no"))


def test_a_lone_response_starts_after_bos_or_the_end_token():
    assert start_token_id(words("<s>", "</s>", bos_token="<s>", eos_token="</s>")) == 1
    assert start_token_id(words("<s>", "</s>", eos_token="</s>")) == 2
    with pytest.raises(ConfigError, match="neither a BOS nor an end token"):
        start_token_id(words("yes"))
