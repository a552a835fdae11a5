"""Markdown that data cannot break out of: cells, code spans and tables (the cards of `export` and `select`)."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def cell(text: str) -> str:
    """Text for a cell or a list item: nothing in it ends the one or begins markup."""
    line = one_line(text)
    for character in "\\`*_[]<>|#":
        line = line.replace(character, f"\\{character}")
    return line


def code(text: str) -> str:
    """Text as a code span."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells must be safe already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
