"""Text that reaches a terminal is harmless, and columns line up."""

from __future__ import annotations

import pytest

from selfplay.core.terminal import clip, duration, number, safe_text, table, width_of


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain [bold]text[/bold]", "plain [bold]text[/bold]"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]8;;http://x\x07link", "\\x1b]8;;http://x\\x07link"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
        ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
        ("\u2028\ufeff\u200b", "\\u2028\\ufeff\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("no\u00a0break", "no break"),
        ("עברית 👩\u200d🔬 é", "עברית 👩\u200d🔬 é"),
    ],
)
def test_safe_text(text: str, safe: str) -> None:
    assert safe_text(text) == safe
    assert safe_text(safe_text(text)) == safe


def test_line_breaks_stay_where_they_are_wanted() -> None:
    assert safe_text("a\n\tb\r\x1b", lines=True) == "a\n    b\\r\\x1b"


def test_widths_and_clipping() -> None:
    assert width_of("日本e\u0301") == 5
    assert clip("abcdef", 4) == "abc…"
    assert clip("日本語", 5) == "日本…"
    assert clip("abc", 3) == "abc"


def test_numbers_are_short() -> None:
    shown = [number(value) for value in (None, True, 3, 0.0, 0.12345, 1e-7, -9e-17, 2e9, "x\x1b")]
    assert shown == ["-", "yes", "3", "0.000", "0.123", "1.00e-07", "0.000", "2.00e+09", "x\\x1b"]
    assert [duration(value) for value in (None, 4.24, 190.0, 7500.0)] == ["-", "4.2 s", "3 min 10 s", "2 h 05 min"]


def test_wide_table_goes_on_below() -> None:
    drawn = table(["id", "first/value", "second"], [["1", "10", "20"], ["2", "日", "x"]], width=12)
    assert drawn.splitlines() == [
        "    first",
        "id  value",
        "1      10",
        "2      日",
        "",
        "",
        "id  second",
        "1       20",
        "2        x",
    ]
    assert table([], [["a", "1"], ["bb", "22"]], width=80) == "a    1\nbb  22"
