"""The frame of every page: escaping is on, unknown names are errors, nothing is loaded and no script runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from selfplay.core.format import PAGE as FORMAT
from selfplay.inspect.web.pages import STYLES, css_file, environment

PAGE = (
    '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}'
    '{% block main %}<h1 title="{{ name }}">{{ name }}</h1>{% endblock %}'
)


def test_a_page_forbids_script_and_network() -> None:
    page = environment("selfplay.inspect.web").from_string(PAGE).render(name="<script>alert(1)</script>\"'")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and "default-src &#39;none&#39;" in policy[1] and "script" not in policy[1]
    assert (
        "<script" not in page
        and "&lt;script&gt;" in page
        and 'title="&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;"' in page
    )
    assert page.startswith('<!doctype html>\n<html lang="en">') and "src=" not in page
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment("selfplay.inspect.web").from_string("{{ nothing }}").render()


def test_styles_load_nothing_from_anywhere() -> None:
    for name in STYLES:
        assert not re.search(r"url\(|@import|https?:|</", css_file(name)), name


def test_numbers_are_short_and_honest_about_what_is_not_there() -> None:
    assert [FORMAT.number(value) for value in (None, 0.5, -1.0, 1e-17, 1234567, 0.00001)] == [
        "\u2013", "0.500", "\u22121.000", "0.000", "1\u202f234\u202f567", "1.00e\u221205",
    ]  # fmt: skip
    assert [FORMAT.signed(0.25), FORMAT.signed(-0.25), FORMAT.percent(0.126), FORMAT.duration(3725)] == [
        "+0.250", "\u22120.250", "13%", "1 h 02 min",
    ]  # fmt: skip


def test_every_template_and_style_is_in_the_wheel() -> None:
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in (root / package.replace(".", "/")).glob(glob)
    }
    there = {
        path
        for path in (root / "selfplay").rglob("*")
        if path.suffix in (".html", ".css", ".js", ".svg", ".pyi", ".typed")
    }
    assert there and there == listed
