"""Final answers in each form of thinking: found in tokenizer and template, read from token ids where the marks are tokens."""

import pytest
from tokenizers import AddedToken

from selfplay.inputs.models.thinking import NO_FINAL_ANSWER, UNCLOSED_THINKING, WHOLE, Answer, Thinking
from tests.helpers.tiny import CHAT_TEMPLATE, make_tokenizer

UNCLOSED, NO_FINAL = Answer(missing=UNCLOSED_THINKING), Answer(missing=NO_FINAL_ANSWER)
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>")


def tokenizer_with(*marks: str, special: bool):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    return tokenizer


def answer(thinking: Thinking, tokenizer, response: str, prompt: str = "<|user|>hi<|end|><|assistant|>") -> Answer:
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    return thinking.answer(
        encode(prompt), encode(response), tokenizer.decode(encode(response), skip_special_tokens=True)
    )


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
        ("<|channel>", "<channel|>"),
        ("<reasoning>", "</reasoning>"),
    ],
)
def test_marks_that_are_tokens(opening, closing, special):
    tokenizer = tokenizer_with(opening, closing, special=special)
    thinking = Thinking(tokenizer, CHAT_TEMPLATE)
    assert thinking.reads_tokens and f"{opening} and {closing}" in thinking.describe()
    assert ("special tokens" in thinking.describe()) == special
    one, two = f"{opening}\na\n{closing}\n\n", f"{opening}b{closing}"
    found = {
        f"{one}fine": Answer("fine"),
        "fine": WHOLE,
        f"{opening}never closed": UNCLOSED,
        f"{one}{two}fine": Answer("fine"),
        f"{one}not yet{two} fine": Answer("fine"),
        f"{one}fine{opening}again": UNCLOSED,
        f"{opening}{two}fine": Answer("fine"),
        f"a{closing}fine": Answer("fine"),
        one: Answer(""),
    }
    assert {response: answer(thinking, tokenizer, response) for response in found} == found


def test_a_mark_that_is_spelled_is_no_token():
    tokenizer = tokenizer_with("<think>", "</think>", special=False)
    thinking = Thinking(tokenizer, CHAT_TEMPLATE)
    spelled = list(b"<think>a</think>b")
    ids = [tokenizer(chr(byte), add_special_tokens=False)["input_ids"][0] for byte in spelled]
    assert thinking.answer([], ids, tokenizer.decode(ids)) == WHOLE


def test_thoughts_that_the_prompt_opens():
    tokenizer = tokenizer_with("<think>", "</think>", special=False)
    thinking = Thinking(tokenizer, CHAT_TEMPLATE)
    opened, closed = "<|user|>hi<|end|><|assistant|><think>\n", "<|user|>hi<|end|><|assistant|><think>\n\n</think>\n\n"
    assert answer(thinking, tokenizer, "a\n</think>\n\nfine", opened) == Answer("fine")
    assert answer(thinking, tokenizer, "never closed", opened) == UNCLOSED
    assert answer(thinking, tokenizer, "fine", closed) == WHOLE
    earlier = "<|user|>hi<|end|><|assistant|><think>cut<|end|><|user|>again<|end|><|assistant|>"
    assert answer(thinking, tokenizer, "fine", earlier) == WHOLE


def test_a_model_may_write_other_marks_than_its_tokenizer_has():
    tokenizer = tokenizer_with("[THINK]", "[/THINK]", special=True)
    thinking = Thinking(tokenizer, CHAT_TEMPLATE)
    assert answer(thinking, tokenizer, "<think>a</think>fine") == Answer("fine")
    assert answer(thinking, tokenizer, "[THINK]a[/THINK]the tag <think> is open") == Answer("the tag <think> is open")


def test_marks_that_are_text_of_the_template():
    tokenizer, template = make_tokenizer(), CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
    thinking = Thinking(tokenizer, template)
    assert thinking.reads_tokens and "as plain text" in thinking.describe()
    opened = "<|user|>hi<|end|><|assistant|><think>\n"
    assert answer(thinking, tokenizer, "a</think>fine", opened) == Answer("fine")
    assert answer(thinking, tokenizer, "never closed", opened) == UNCLOSED
    assert answer(thinking, tokenizer, "fine") == WHOLE


def test_a_model_that_does_not_think():
    thinking = Thinking(make_tokenizer(), CHAT_TEMPLATE)
    assert not thinking.reads_tokens and thinking.describe() == ""
    assert thinking.answer([], [], "<think>a</think>\n\nb") == Answer("b")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>fine", Answer("fine")),
        ("<|channel|>final<|message|> fine", Answer("fine")),
        ("<|channel|>analysis<|message|>a<|end|>", NO_FINAL),
        ("<|channel|>analysis<|message|>never ends", NO_FINAL),
        ("<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>", NO_FINAL),
        ("<|channel|>final<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>", Answer("2")),
        ("plain", NO_FINAL),
        ("<|message|>no channel", NO_FINAL),
    ],
)
def test_channels(response, expected):
    tokenizer = tokenizer_with(*HARMONY, special=True)
    thinking = Thinking(tokenizer, None)
    assert "channel final" in thinking.describe()
    prompt = "<|start|>user<|message|>hi<|end|><|start|>assistant"
    assert answer(thinking, tokenizer, response, prompt) == expected


def test_channels_that_the_prompt_opens():
    tokenizer = tokenizer_with(*HARMONY, special=True)
    thinking = Thinking(tokenizer, None)
    opened = "<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>"
    assert answer(thinking, tokenizer, "fine", opened + "final<|message|>it is ") == Answer("fine")
    response = "a<|end|><|start|>assistant<|channel|>final<|message|>fine"
    assert answer(thinking, tokenizer, response, opened + "analysis<|message|>") == Answer("fine")
    assert answer(thinking, tokenizer, "a", opened + "analysis<|message|>") == NO_FINAL


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("plain", WHOLE),
        ("<think>a</think>\n\nb", Answer("b")),
        ("\n<think>a</think>b</think>", Answer("b</think>")),
        ("a</think>\nb", Answer("b")),
        ("<think>never closed", UNCLOSED),
        ("x <think> y", WHOLE),
        ("<think></think>", Answer("")),
        ("<think>a</think>x<think>b</think>y", Answer("y")),
        ("[THINK]a[/THINK]b", Answer("b")),
        ("Here is my thought process: a Here is my response: b", Answer("b")),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", Answer("b")),
        ("<|channel|>analysis<|message|>a", NO_FINAL),
    ],
)
def test_responses_of_a_dataset_are_text(response, expected):
    assert Thinking().in_text(response) == expected
