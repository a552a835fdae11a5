"""Escaping for terminals and Markdown; HTML in tests/inspect/web/test_text.py."""

from __future__ import annotations

import pytest

from selfplay.core.escape import escape_markdown, escape_terminal, markdown_code


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
def test_escape_terminal(text: str, safe: str) -> None:
    assert escape_terminal(text) == safe
    assert escape_terminal(escape_terminal(text)) == safe


def test_line_breaks_stay_where_they_are_wanted() -> None:
    assert escape_terminal("a\n\tb\r\x1b", lines=True) == "a\n    b\\r\\x1b"


def test_markdown_cells_and_code_spans_stay_what_they_are() -> None:
    assert escape_markdown("a|b\n<i>*c*") == "a\\|b \\<i\\>\\*c\\*"
    assert markdown_code("a`b|c") == "`a'b/c`"
