"""The template environment of report and viewer, and their stylesheet.

Autoescape is always on and an unknown name is an error. Templates put data into text nodes and quoted attributes only; Markup
comes from `text` and `charts` alone, never from data.
"""

from __future__ import annotations

import functools
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from selfplay.core.escape import escape_html
from selfplay.core.format import PAGE
from selfplay.inspect.web import text

STYLES = ("tokens.css", "base.css", "charts.css")

CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Of a page that stands alone: nothing is loaded from anywhere and no script runs."""


def environment(package: str) -> Environment:
    """Templates of `package` (its folder `templates/`), which may extend and import those of `selfplay.inspect.web`."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("selfplay.inspect.web")]),
    )
    made.filters |= {
        "visible": escape_html, "inline": text.inline, "block": text.block,
        "number": PAGE.number, "signed": PAGE.signed, "count": PAGE.count, "percent": PAGE.percent,
        "duration": PAGE.duration,
    }  # fmt: skip
    made.globals |= {"stylesheet": stylesheet, "CSP": CSP}
    return made


@functools.cache
def stylesheet() -> Markup:
    """All of the shared CSS: design tokens, elements, charts."""
    return Markup("\n").join(Markup(css_file(name)) for name in STYLES)


def css_file(name: str) -> str:
    """One file of the shared CSS."""
    return (resources.files("selfplay.inspect.web") / "static" / name).read_text(encoding="utf-8")
