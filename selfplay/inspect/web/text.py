"""Texts of models and users as HTML shows them: always text, never markup, and nothing in them is hidden.

Control, bidirectional and invisible characters could reorder or hide what stands on the page; each becomes a small label with its
code point. What is left runs in its own direction (`<bdi>`, `dir=auto`), so that right-to-left text stays within its bounds.
"""

from __future__ import annotations

from markupsafe import Markup

from selfplay.core.escape import escape_html
from selfplay.core.format import PAGE

CLIP = 4000
"""Characters of a block that are shown before the rest is counted."""


def inline(text: str, limit: int = 200) -> Markup:
    """A text within a line, isolated from it; line breaks show as one sign, the rest after `limit` characters is counted."""
    shown = text[:limit].replace("\n", "\u23ce")
    return Markup("<bdi>{}</bdi>{}").format(escape_html(shown), _left_out(text, limit))


def block(text: str, limit: int = CLIP) -> Markup:
    """A text as a paragraph of its own, in its own direction; what is beyond `limit` characters is counted, not shown."""
    if not text:
        return Markup('<p class="text empty">(empty)</p>')
    return Markup('<p class="text" dir="auto">{}{}</p>').format(escape_html(text[:limit]), _left_out(text, limit))


def _left_out(text: str, limit: int) -> Markup:
    if len(text) <= limit:
        return Markup("")
    more = PAGE.count(len(text) - limit)
    return Markup(' <span class="cut" dir="ltr">[{} more characters]</span>').format(more)
