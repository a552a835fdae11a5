"""WCAG AA, computed from the tokens: 4.5:1 for text, 3:1 for what is drawn, in light and in dark."""

from __future__ import annotations

import itertools
import re

import pytest

from selfplay.inspect.web.charts.heat import DARKEST
from selfplay.inspect.web.pages import css_file

Tokens = dict[str, str]
SURFACES = ("page", "surface", "sunken")
TEXTS = ("ink", "ink-soft", "link")
STATES = ("good", "bad", "warn", "mark")


def palettes() -> dict[str, Tokens]:
    """Colours of both schemes by name."""
    light, _, rest = css_file("tokens.css").partition("@media screen and (prefers-color-scheme: dark)")
    dark = rest.partition(":root {\n  --font")[0]
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css)) for name, css in (("light", light), ("dark", dark))
    }


def rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def luminance(channels: list[float]) -> float:
    parts = [c / 255 for c in channels]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], two: list[float]) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_that_of_the_standard() -> None:
    assert contrast([255, 255, 255], [0, 0, 0]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.01)


def test_both_schemes_have_every_colour() -> None:
    light, dark = palettes().values()
    assert {*light} == {*dark} and len(light) > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_aa_contrast(scheme: str) -> None:
    tokens = palettes()[scheme]
    pairs = [*itertools.product(TEXTS, SURFACES), *((state, f"{state}-bg") for state in STATES)]
    pairs += [(text, f"{state}-bg") for text in TEXTS for state in ("good", "bad", "warn")]
    low = {pair: contrast(rgb(tokens[pair[0]]), rgb(tokens[pair[1]])) for pair in pairs}
    assert {pair: round(value, 2) for pair, value in low.items() if value < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_series_lines_and_focus_have_contrast(scheme: str) -> None:
    tokens = palettes()[scheme]
    drawn = [*(name for name in tokens if name.startswith("series-")), "line-strong", "focus"]
    low = {(name, on): contrast(rgb(tokens[name]), rgb(tokens[on])) for name in drawn for on in ("page", "surface")}
    assert {pair: round(value, 2) for pair, value in low.items() if value < 3} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_a_heat_map_can_be_read_in_every_cell(scheme: str) -> None:
    tokens = palettes()[scheme]
    heat, ground, ink = (rgb(tokens[name]) for name in ("heat", "surface", "ink"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        opacity = DARKEST * share
        cell = [opacity * h + (1 - opacity) * g for h, g in zip(heat, ground, strict=True)]
        assert contrast(ink, cell) >= 4.5, share


def test_colours_stand_in_the_tokens_only() -> None:
    for name in ("base.css", "charts.css"):
        assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", css_file(name).partition("@media print")[0]), name
