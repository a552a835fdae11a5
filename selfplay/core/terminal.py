"""Text for terminals: escaped data (see escape.py), short numbers, aligned columns. No markup is read from
data."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from selfplay.core.errors import OutputError
from selfplay.core.escape import JOINERS

_WITHOUT_TERMINAL = 10_000
BAR_WIDTH = 32


def width_of(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or character in JOINERS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """The beginning of the text, with an ellipsis where it was cut to fit `width` columns."""
    if width_of(text) <= width:
        return text
    room, taken = width - 1, []
    for character in text:
        room -= _cells(character)
        if room < 0:
            break
        taken.append(character)
    return "".join(taken) + "…"


def bar(part: float, whole: float) -> str:
    """A bar as long as the part of the whole; anything above nothing shows."""
    length = round(BAR_WIDTH * part / whole) if whole else 0
    return "#" * (max(length, 1) if part else 0)


def screen_width() -> int:
    """Columns of the terminal; without one, wide enough that nothing is cut for a program or a file that reads it."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WITHOUT_TERMINAL


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), width: int | None = None
) -> str:
    """Lined-up columns; those in `left` flush left, the others right. A `/` in a heading breaks it into two lines; an
    empty `header` leaves it out. What is too wide for the screen goes on below, each block beginning with the first
    column again. Cells must be safe text."""
    headings = [heading.split("/") for heading in header]
    depth = max((len(parts) for parts in headings), default=0)
    lines = [[([""] * (depth - len(parts)) + parts)[level] for parts in headings] for level in range(depth)]
    lines += [list(row) for row in rows]
    widths = [max(width_of(line[column]) for line in lines) for column in range(len(lines[0]))]

    def drawn(line: Sequence[str], block: Sequence[int]) -> str:
        return "  ".join(_pad(line[column], widths[column], column in left) for column in block).rstrip()

    blocks = _blocks(widths, screen_width() if width is None else width)
    return "\n\n".join("\n".join(drawn(line, block) for line in lines) for block in blocks)


def _blocks(widths: Sequence[int], screen: int) -> list[list[int]]:
    blocks = [[0]]
    used = widths[0]
    for column in range(1, len(widths)):
        if used + 2 + widths[column] > screen and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(column)
        used += 2 + widths[column]
    return blocks


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - width_of(text))
    return text + space if left else space + text


def write(text: str) -> None:
    """A line or block of data on stdout."""
    with writing_stdout():
        open_stdout().write(text + "\n")


def open_stdout() -> TextIO:
    """Standard output, for data. Raises OSError where the caller closed it (`>&-`): what is in its place takes the output of
    libraries, and data must not get lost there in silence."""
    if sys.__stdout__ is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdout


@contextlib.contextmanager
def writing_stdout() -> Iterator[None]:
    """What fails inside is that standard output takes no more: raised as an OutputError. A reader that has enough, or a terminal
    that is gone, is no failure of the output: BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.EIO:
            raise BrokenPipeError from error
        raise OutputError(
            f"standard output cannot be written: {error.strerror}",
            "Make room where it is redirected to, or redirect it elsewhere. No run was changed by this.",
        ) from error


def note(text: str) -> None:
    """A message on stderr. If nobody reads stderr any more (`2>&1 | head`), the exit code still tells how the command ended."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")


def flush_or_discard() -> None:
    """Flush stdout and stderr before the process ends. If one has no reader any more, discard what its buffer still holds:
    otherwise Python's own flush at exit fails, and the exit code becomes 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def write_document(document: dict[str, Any], text: Callable[[dict[str, Any]], str], *, as_json: bool) -> None:
    """A document on stdout, as JSON or as `text` writes it for a person."""
    if as_json:
        write_json(document)
    else:
        write(text(document))


def write_json(document: Any) -> None:
    """A document on stdout. Everything beyond ASCII is escaped, which makes it harmless on a terminal as well."""
    write(json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False))
