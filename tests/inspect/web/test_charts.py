"""Every chart is a picture with a name and a description, in bounds, without script; texts in it are text."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from selfplay.inspect.web import charts
from selfplay.inspect.web.charts import Bin, Curve, Part, Point, Step

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>\x1b\u202e\"&"


def pairs(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, count))
    return x, y, x > y


def every(word: str) -> dict[str, Markup]:
    names = {"x_title": word, "y_title": word}
    rows = {"row_title": word}
    points = [Point(0, 0.1, 0.0, 0.2), Point(1, 0.5, 0.4, 0.6)]
    return {
        "lines": charts.line_chart("a", word, [Curve(word, points), Curve("other", points)], **names, baseline=0.0, note=word),
        "steps": charts.line_chart("b", word, [Curve(word, [Point(i, i / 7) for i in range(1000)])], **names),
        "one point": charts.line_chart("c", word, [Curve(word, [Point(0, 0.0)])], **names),
        "histogram": charts.histogram("d", word, [Bin(0, 1, 5, 2), Bin(1, 2, 9, 9)], **names, cut=0.9),
        "one bin": charts.histogram("e", word, [Bin(1, 1, 5)], **names),
        "few": charts.scatter("f", word, *pairs(50), **names, diagonal=True),
        "many": charts.scatter("g", word, *pairs(5000), **names),
        "stacked": charts.stacked_bars("i", word, [word, "1"], [Part(word, [0.5, None]), Part("x", [1, 2])], **rows, x_title="s"),
        "funnel": charts.funnel("j", word, [Step(word, word, 10), Step("kept", word, 0)]),
        "heat": charts.heat_map("k", word, [word, "2"], ["1", "2"], [[1.0, None], [0.25, 1.0]], **rows, column_title=word),
    }  # fmt: skip


@pytest.mark.parametrize("kind", every("x"))
def test_a_chart_is_a_named_picture_whose_texts_are_text(kind: str) -> None:
    drawing = every(EVIL)[kind]
    root = ElementTree.fromstring(drawing)
    title, words = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and title is not None and words is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {words.get('id')}"
    assert "<script>" in (title.text or "") and words.text
    used = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert used <= {"svg", "title", "desc", "text", "line", "rect", "path", "polyline", "circle"}
    assert not {name for element in root.iter() for name in element.attrib} & {"style", "href", "onclick", "fill"}
    assert "\x1b" not in drawing and "\u202e" not in drawing


@pytest.mark.parametrize("kind", every("x"))
def test_everything_is_drawn_within_bounds(kind: str) -> None:
    root = ElementTree.fromstring(every("margin")[kind])
    _, _, width, height = (float(part) for part in root.get("viewBox", "").split())
    for element in root.iter():
        x, y = (float(element.get(name, "0")) for name in ("x", "y"))
        assert -0.1 <= x <= width and -0.1 <= y <= height, element.attrib
        assert x + float(element.get("width", "0")) <= width + 0.1, element.attrib
        for point in (element.get("points") or "").split():
            across, up = point.split(",")
            assert 0 <= float(across) <= width and 0 <= float(up) <= height


def test_the_description_says_the_numbers() -> None:
    shown = every("share")
    assert "share 1 0.5 [0.4, 0.6]" in shown["lines"]
    assert (
        "14 values of share from 0 to 2, 11 of them kept; most lie between 1 and 2. The cut is at 0.9."
        in shown["histogram"]
    )
    assert "50 pairs, " in shown["few"] and "of them kept" in shown["few"]


def test_many_points_stay_small() -> None:
    shown = every("x")
    assert len(shown["many"]) < 60_000
    assert len(re.findall(r"\d,\d", shown["steps"])) < 450
    assert len(charts.scatter("z", "z", *pairs(300_000), x_title="x", y_title="y")) < 80_000


def test_a_value_that_is_not_a_number_is_not_drawn() -> None:
    x, y, kept = pairs(10)
    x[3] = np.nan
    drawing = charts.scatter("z", "z", x, y, kept, x_title="x", y_title="y")
    assert "nan" not in drawing and "9 pairs" in drawing


def test_a_chart_that_stands_alone_holds_its_colours_and_its_title() -> None:
    text = charts.standalone(every("x")["lines"], "reward & gold", "95 %")
    root = ElementTree.fromstring(text)
    style = root.find(f"{SVG}style")
    assert style is not None and "--series-0" in (style.text or "") and "prefers-color-scheme" in (style.text or "")
    assert "reward & gold" in [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(("low", "high"), [(0.42, 0.71), (-0.013, 0.002), (5, 5), (0, 1000), (-3e-6, 2e-6)])
def test_ticks_enclose_the_values_with_round_numbers(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 9
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}
