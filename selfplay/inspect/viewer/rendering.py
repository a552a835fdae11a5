"""The templates' environment: that of `web`, with what only the viewer shows."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment
from markupsafe import Markup

from selfplay.core.escape import escape_html
from selfplay.core.format import age
from selfplay.inspect.viewer.word_diff import DiffSpan
from selfplay.inspect.web.pages import environment


def make_environment() -> Environment:
    """Autoescaped; `pieces` shows a text with its differences, `ago` a time, `title` the name of a column."""
    made = environment("selfplay.inspect.viewer")
    made.filters |= {"pieces": pieces, "ago": ago, "title": title}
    return made


def pieces(found: Sequence[DiffSpan]) -> Markup:
    """A text, what only it has in `<mark>`."""
    parts: list[Markup] = []
    for piece in found:
        # white space at the end is not worth marking
        text = piece.text.rstrip() if piece.only else ""
        parts += [Markup("<mark>{}</mark>").format(escape_html(text))] if text else []
        parts.append(escape_html(piece.text[len(text) :]))
    return Markup("").join(parts)


def ago(seconds: float | None) -> str:
    """How long ago something was."""
    return "never" if seconds is None else f"{age(seconds)} ago"


def title(column: str) -> str:
    """A column's name as a heading says it."""
    return column.removeprefix("num_").replace("_", " ")
