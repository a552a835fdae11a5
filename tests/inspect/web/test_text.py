"""Hostile texts become text: nothing of theirs is markup, nothing reorders the page, nothing is hidden."""

from __future__ import annotations

import sys
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.core.escape import escape_html
from selfplay.inspect.web.text import block, inline

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 \u202etxt.exe\u2066 \x9b31m\r\n<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    "</p></bdi>{{ 7 * 7 }} &amp; \u200b\u200f\U000e0041\ufeff\u3164 \x00 end"
)


class Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Read:
    found = Read()
    found.feed(markup)
    found.close()
    return found


@pytest.mark.parametrize("shown", [escape_html, inline, block])
def test_a_hostile_text_is_text(shown) -> None:  # type: ignore[no-untyped-def]
    found = read(str(shown(HOSTILE)))
    assert {*found.tags} <= {"bdo", "bdi", "p", "span"}
    assert "<script>alert(1)</script>" in found.text and "{{ 7 * 7 }} &amp;" in found.text
    assert not [c for c in found.text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]


def test_what_cannot_be_seen_is_named() -> None:
    text = read(str(escape_html("a\x1b\u202e\U000e0041\r"))).text
    assert text == "aESCU+202EU+E0041CR"
    assert 'title="U+202E Right-to-left override"' in escape_html("\u202e")


def test_joiners_and_selectors_of_ordinary_text_stay_and_others_are_shown() -> None:
    ordinary = "👩\u200d🔬 ❤\ufe0f می\u200cخواهم 1\ufe0f⃣ \tx\ny"
    assert read(str(escape_html(ordinary))).text == ordinary and not read(str(escape_html(ordinary))).tags
    assert read(str(escape_html("pass\u200dword\ufe0f"))).text == "passU+200DwordU+FE0F"


def test_every_control_or_format_character_has_a_label() -> None:
    missed = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp") and chr(code) not in "\n\t"
        if "ctl" not in escape_html("a" + chr(code))
    ]
    assert not missed


def test_a_long_text_is_clipped_and_the_rest_counted() -> None:
    assert "96\u202f000 more characters" in block("x" * 100_000)
    assert len(block("x" * 100_000)) < 5000
    assert "more characters" not in block("x" * 4000)
    assert read(str(inline("a\nb" * 300))).text.count("\u23ce") == 67


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_text_makes_an_element_of_its_own(text: str) -> None:
    assert {*read(str(block(text, limit=50))).tags} <= {"p", "bdo", "span"}
