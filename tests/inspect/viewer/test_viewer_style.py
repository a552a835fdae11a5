"""The viewer's own style: colours are tokens, and what it puts on what holds WCAG AA."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from tests.inspect.web.test_web_contrast import contrast, palettes, rgb


def css() -> str:
    return (resources.files("selfplay.inspect.viewer") / "static" / "viewer.css").read_text(encoding="utf-8")


def test_colours_are_tokens() -> None:
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", css())
    assert {*re.findall(r"var\(--([\w-]+)\)", css())} <= {*palettes()["light"], "mono", "font", "radius"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "on", "least"),
    [
        ("surface", "link", 4.5),  # a button
        ("link", "sunken", 4.5),  # a state
        ("ink", "mark-bg", 4.5),  # words that only one response has
        ("ink", "good-bg", 4.5),
        ("ink", "bad-bg", 4.5),
        ("link", "surface", 3),  # handles of sliders
        ("line-strong", "surface", 3),  # borders of fields
        ("good", "surface", 3),  # the bar above a chosen response, underlines
        ("bad", "surface", 3),
    ],
)
def test_contrast_holds(scheme: str, text: str, on: str, least: float) -> None:
    tokens = palettes()[scheme]
    assert contrast(rgb(tokens[text]), rgb(tokens[on])) >= least
