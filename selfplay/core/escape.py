"""One escaper for each target: terminal, HTML, Markdown and SVG.

Texts of models, users and failing libraries may contain escape sequences, control characters, bidirectional overrides and markup.
Here each becomes visible text, so that it can neither rewrite the screen nor hide or reorder what a page shows.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

# joiners belong to ordinary text: emoji, Persian, the languages of India
JOINERS = frozenset("\u200c\u200d")

_NAMES = {"\r": "CR", "\x1b": "ESC", "\x00": "NUL", "\x07": "BEL", "\x08": "BS", "\x7f": "DEL", "\t": "TAB"}
# category C is control (Cc), format (Cf: bidi, zero width, tags), surrogate, private use and unassigned; Zl, Zp break lines.
# A first, quick look: everything that a label may be made of.
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ud800-\uf8ff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)


def escape_terminal(text: str, *, lines: bool = False) -> str:
    """The text for a terminal: everything that is not printable becomes an escape such as `\\x1b`. With `lines`, line breaks
    stay, and a tab becomes spaces."""
    if text.isprintable():
        return text
    if lines:
        return "\n".join(escape_terminal(line.replace("\t", "    ")) for line in text.split("\n"))
    return "".join(map(_safe, text))


def _safe(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if character in named:
        return named[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """The text on one line, for SVG, Markdown and headings: each line break and control character becomes a space."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def escape_markdown(text: str) -> str:
    """Text for a table cell or a list item: nothing in it ends the cell or begins markup."""
    line = one_line(text)
    for character in "\\`*_[]<>|#":
        line = line.replace(character, f"\\{character}")
    return line


def markdown_code(text: str) -> str:
    """Text as a code span."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`"


def escape_html(text: str) -> Markup:
    """The text as HTML, with a label in place of every character that cannot be seen. Line breaks and tabs stay."""
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
    if character in JOINERS:
        return not before.isascii() and before not in JOINERS
    return "\ufe00" <= character <= "\ufe0f" and (not before.isascii() or before in "0123456789#*")


def _label(character: str) -> Markup:
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character")
    # the label itself runs left to right, whatever surrounds it
    return Markup('<bdo dir="ltr" class="ctl" title="{} {}">{}</bdo>').format(
        code, name.capitalize(), _NAMES.get(character, code)
    )


def csv_cell(value: Any) -> Any:
    """A value as a cell of CSV: lists and mappings are JSON. A spreadsheet would compute a text that begins like a formula, and
    may open addresses and programs that it names: it gets an apostrophe before it."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
