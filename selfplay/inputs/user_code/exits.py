"""A user's function that runs in the process of the command cannot end it in silence.

`os._exit` ends a process at once and without a message, with exit code 0 if the function says so. Workers may end like that
(they are replaced, see execution/quarantine.py), but the command itself must not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Never


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """Inside, `os._exit` raises SystemExit, which the callers of user code report with file and line."""
    before = os._exit
    os._exit = _raise
    try:
        yield
    finally:
        os._exit = before


def _raise(status: int) -> Never:
    raise SystemExit(status)
