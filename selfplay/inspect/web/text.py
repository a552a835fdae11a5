"""Texts of models and users as HTML shows them: always text, never markup, and nothing in them is hidden.

Control, bidirectional and invisible characters could reorder or hide what stands on the page; each becomes a small label with its
code point. What is left runs in its own direction (`<bdi>`, `dir=auto`), so that right-to-left text stays within its bounds.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

CLIP = 4000
"""Characters of a block that are shown before the rest is counted."""

# joiners and variation selectors belong to ordinary text (emoji, Persian, the languages of India): never after ASCII
_JOINERS = "\u200c\u200d"
_NAMES = {"\r": "CR", "\x1b": "ESC", "\x00": "NUL", "\x07": "BEL", "\x08": "BS", "\x7f": "DEL", "\t": "TAB"}
# category C is control (Cc), format (Cf: bidi, zero width, tags), surrogate, private use and unassigned; Zl, Zp break lines.
# A first, quick look: everything that a label may be made of.
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ud800-\uf8ff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)


def visible(text: str) -> Markup:
    """The text escaped, with a label in the place of every character that cannot be seen. Line breaks and tabs stay."""
    parts: list[Markup] = []
    done = 0
    for match in _SUSPECT.finditer(text):
        if _ordinary(text, match.start()):
            continue
        parts += [escape(text[done : match.start()]), _label(match[0])]
        done = match.end()
    parts.append(escape(text[done:]))
    return Markup("").join(parts)


def _ordinary(text: str, at: int) -> bool:
    """Whether a joiner or a variation selector stands where it belongs: after a character beyond ASCII, or a keycap's."""
    character = text[at]
    before = text[at - 1] if at else "a"
    if character in _JOINERS:
        return not before.isascii() and before not in _JOINERS
    return "\ufe00" <= character <= "\ufe0f" and (not before.isascii() or before in "0123456789#*")


def _label(character: str) -> Markup:
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character")
    # the label itself runs left to right, whatever surrounds it
    return Markup('<bdo dir="ltr" class="ctl" title="{} {}">{}</bdo>').format(
        code, name.capitalize(), _NAMES.get(character, code)
    )


def inline(text: str, limit: int = 200) -> Markup:
    """A text within a line, isolated from it; line breaks show as one sign, the rest after `limit` characters is counted."""
    shown = text[:limit].replace("\n", "\u23ce")
    return Markup("<bdi>{}</bdi>{}").format(visible(shown), _left_out(text, limit))


def block(text: str, limit: int = CLIP) -> Markup:
    """A text as a paragraph of its own, in its own direction; what is beyond `limit` characters is counted, not shown."""
    if not text:
        return Markup('<p class="text empty">(empty)</p>')
    return Markup('<p class="text" dir="auto">{}{}</p>').format(visible(text[:limit]), _left_out(text, limit))


def _left_out(text: str, limit: int) -> Markup:
    if len(text) <= limit:
        return Markup("")
    more = f"{len(text) - limit:,}".replace(",", "\u202f")
    return Markup(' <span class="cut" dir="ltr">[{} more characters]</span>').format(more)
