"""Where in a user's own code an exception was raised, for messages."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

# frames of the standard library, of installed packages and of selfplay are not the user's code
_NOT_THEIRS = (
    "<",
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)


def raised_at(error: BaseException) -> str:
    """(line 7 of FILE), with a space before it: the innermost frame in the user's code, or, of a syntax error, the line that it
    names. Empty where there is neither."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" (line {error.lineno} of {error.filename})"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THEIRS)
    ]
    return f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
