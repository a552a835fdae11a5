"""Values that programs wrote as text: what has one reading is parsed, everything else stays a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selfplay.inputs.rows.printed import parsed_text

OBJECTS = [{"role": "user", "content": 'it\'s {a}\n"b"'}, {"role": "assistant", "content": "c"}]


@pytest.mark.parametrize(
    "text, value",
    [
        ('[1, "a", null]', [1, "a", None]),
        ('"[{\\"a\\": 1}]"', [{"a": 1}]),
        ("[1.5, nan, None, True]", [1.5, None, None, True]),
        (str(np.array(OBJECTS, dtype=object)), OBJECTS),
        (repr(np.array(OBJECTS, dtype=object)), OBJECTS),
        (str([np.float64(1.5), np.str_("a")]), [1.5, "a"]),
        ("[np.float64(1.5), np.float64(nan)]", [1.5, None]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("['a',\n 'b']", ["a", "b"]),
    ],
)
def test_what_has_one_reading(text: str, value: Any) -> None:
    assert parsed_text(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "['a' 'b']",
        "[1, ..., 2]",
        "[1. 2.]",
        "[1 2 ... 5]",
        "[open('x')]",
        "[np.exp(1)]",
        "[a, b]",
        "[" * 500,
        "[x](y)",
        '[{"a": 1, "a": 2}]',
        "",
    ],
)
def test_what_has_none_or_two_stays_a_text(text: str) -> None:
    assert parsed_text(text) is text
