"""YAML 1.2 within the limits of a config."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.config.strict_yaml import dump, parse
from selfplay.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("5E7", 5e7),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5e+3", -2500.0),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("Off", "Off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("0x10", 16),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("1e", "1e"),
        ('"5"', "5"),
        ("[1, 1e-5, no]", [1, 1e-5, "no"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("{a: &x 3, b: *x}", {"a": 3, "b": 3}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse(text, "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3, column 1: the key \"a\" is given twice"),
        ("top:\n  a: 1\n  a: 1", r"line 3, column 3: the key \"a\" is given twice"),
        ("[{a: 1, a: 2}]", 'the key "a" is given twice'),
        ("a: !!int '3'", "line 1: the tag `tag:yaml.org,2002:int`"),
        ("b: 1\na: !!python/object/apply:os.system ['true']", "line 2: the tag"),
        ("a: !mine 3", "the tag `!mine`"),
        ("a: {1: 2}", "the key 1 is not a word"),
        ("? [1]\n: 2", r"the key \(1,\) is not a word"),
        ("a: [1", r"not valid YAML: line 1, column 6: "),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: &x {b: *x}", "more than 10000 values"),
        ("a: &x [*x]", "more than 10000 values"),
        (
            "a: &a [1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            "more than 10000 values",
        ),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("a: " + "9" * 5000, "line 1, column 4: an integer is too long"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_refusals_say_where(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)^here.*{message}") as error:
        parse(text, "here")
    assert error.value.hint


def test_what_is_written_is_read_back() -> None:
    document = {
        "a": 1e-5,
        "b": "no",
        "c": [1, 2, {"x": None}],
        "d": {},
        "e": "1e-5",
        "f": "2020-01-01",
        "g": "x" * 2000,
        "h": "a\nb",
    }
    text = dump(document)
    assert parse(text, "here") == document
    assert text.startswith("a: 1e-05\nb: no\n")
    safe = dump(document, ascii_only=True)
    assert safe.isascii() and "\x1b" not in safe and parse(safe, "here") == document
