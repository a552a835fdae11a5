"""Token ids of offline pairs: the prompt as a run renders it, the response with the token that ends its turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from selfplay.core.errors import ConfigError, DataError
from selfplay.dataset_selection.rendering import ResponseRenderer
from selfplay.inputs.models.chat import ChatRenderer
from tests.helpers.tiny import CHAT_TEMPLATE, make_tokenizer

PROMPT: list[Any] = [{"role": "user", "content": "hi"}]
GOOD: list[Any] = [{"role": "assistant", "content": "good"}]
BAD: list[Any] = [{"role": "assistant", "content": "bad one"}]
NEWLINE = CHAT_TEMPLATE.replace("<|end|>", "<|end|>\n")
THINKING = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] }}"
).replace("<|assistant|>{% endif", "<|assistant|><think>{% endif")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@dataclass
class Rendered:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Renderer(ResponseRenderer):
    def pair(self, prompt: list[Any], chosen: list[Any], rejected: list[Any]) -> Rendered:
        ids = self.prompt(prompt)
        return Rendered(ids, *(self.response(prompt, ids, side[0]["content"]) for side in (chosen, rejected)))


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    return Renderer(ChatRenderer(tokenizer, template), [tokenizer.eos_token_id])


def test_a_response_ends_with_the_token_that_ends_its_turn(tokenizer: Any) -> None:
    pair = renderer(tokenizer).pair(PROMPT, GOOD, BAD)
    assert tokenizer.decode(pair.prompt) == "<|user|>hi<|end|><|assistant|>"
    assert tokenizer.decode(pair.chosen) == "good<|end|>"
    assert tokenizer.decode(pair.rejected) == "bad one<|end|>"


def test_a_newline_behind_the_turn_is_no_part_of_the_response(tokenizer: Any) -> None:
    pair = renderer(tokenizer, NEWLINE).pair(PROMPT, GOOD, BAD)
    assert tokenizer.decode(pair.chosen) == "good<|end|>"
    whole = tokenizer.apply_chat_template([*PROMPT, *GOOD], chat_template=NEWLINE, tokenize=False)
    assert whole == tokenizer.decode([*pair.prompt, *pair.chosen]) + "\n"


def test_a_base_model_gets_plain_text_and_its_end_token(tokenizer: Any) -> None:
    pair = renderer(tokenizer, "none").pair(PROMPT, GOOD, BAD)
    assert tokenizer.decode(pair.prompt) == "hi"
    assert tokenizer.decode(pair.chosen) == "good<|end|>"


def test_a_template_that_writes_no_end_gets_one(tokenizer: Any) -> None:
    bare = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}[{% endif %}"
    pair = renderer(tokenizer, bare).pair(PROMPT, GOOD, BAD)
    assert tokenizer.decode(pair.chosen) == "good]<|end|>"


def test_where_the_conversation_is_no_continuation_the_text_is_encoded_by_itself(tokenizer: Any) -> None:
    found = renderer(tokenizer, THINKING)
    pair = found.pair(PROMPT, [{"role": "assistant", "content": "hm</think>good"}], BAD)
    assert tokenizer.decode(pair.prompt) == "<|user|>hi<|end|><|assistant|><think>"
    assert tokenizer.decode(pair.chosen) == "hm</think>good<|end|>"
    assert found.num_apart == 2


def test_control_tokens_in_a_text_are_text(tokenizer: Any) -> None:
    typed: list[Any] = [{"role": "assistant", "content": "a<|end|>b"}]
    for template in (None, "none"):
        pair = renderer(tokenizer, template).pair(PROMPT, typed, BAD)
        assert pair.chosen.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(pair.chosen) == "a<|end|>b<|end|>"


def test_messages_that_the_template_refuses_are_an_error(tokenizer: Any) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(DataError, match="no system"):
        renderer(tokenizer, refusing).pair([{"role": "system", "content": "s"}, *PROMPT], GOOD, BAD)


def test_without_an_end_token_there_is_no_finished_response(tokenizer: Any) -> None:
    class Endless:
        eos_token_id = None

    class Bare:
        tokenizer = Endless()

    with pytest.raises(ConfigError, match="no end token"):
        ResponseRenderer(Bare(), [])  # type: ignore[arg-type]
