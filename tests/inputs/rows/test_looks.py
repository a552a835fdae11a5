"""What texts look like: each sign is seen where it is, and not in ordinary text."""

from typing import Any

import pytest

from selfplay.inputs.rows.looks import looks_of

PLAIN = [
    "a",
    "2 + 2 = 4 &c.",
    "Assistant professor: yes",
    "a <b> [1] | x |",
    "caf\u00e9 \u00e0 la cr\u00e8me",
    "b'c",
    "See Human: Nature.",
]


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text(text: str) -> None:
    assert {look for _, look in looks_of("c", text)} <= {"prose", "long"}


@pytest.mark.parametrize(
    "value, look",
    [
        ("x</s>", "ended"), ("x<|im_end|>\n", "ended"), ("x<|endoftext|>", "ended"), ("x<end_of_turn>", "ended"),
        ("Assistant: yes", "templated"), ("\n\nHuman: q", "templated"), ("[INST] q [/INST]", "templated"),
        ("b'it\\'s'", "damaged"), ("it\u00e2\u20ac\u2122s", "damaged"), ("caf\u00c3\u00a9", "damaged"), ("a &lt; b", "damaged"),
        ("nan", "null"), ('["a", "b"]', "listed"), ("one two three four five six", "prose"), ("a" * 21, "long"),
    ],
)  # fmt: skip
def test_signs(value: str, look: str) -> None:
    assert ("c", look) in {*looks_of("c", value)}


def test_texts_further_inside() -> None:
    value: Any = [{"role": "user", "content": "x</s>"}, {"text": "nan", "of": ["b'x'"]}]
    assert {*looks_of("c", value)} == {("c", "ended"), ("c.text", "null"), ("c.of", "damaged")}
    assert {*looks_of("c", '[{"from": "human", "value": "x</s>"}]')} == {("c", "ended")}
