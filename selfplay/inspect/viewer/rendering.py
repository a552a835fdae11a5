"""The templates' environment: that of `web`, with what only the viewer shows."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment
from markupsafe import Markup

from selfplay.inspect.viewer.word_diff import DiffSpan
from selfplay.inspect.web.pages import environment
from selfplay.inspect.web.text import visible


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
        parts += [Markup("<mark>{}</mark>").format(visible(text))] if text else []
        parts.append(visible(piece.text[len(text) :]))
    return Markup("").join(parts)


def ago(seconds: float | None) -> str:
    """How long ago something was."""
    if seconds is None:
        return "never"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def title(column: str) -> str:
    """A column's name as a heading says it."""
    return column.removeprefix("num_").replace("_", " ")
