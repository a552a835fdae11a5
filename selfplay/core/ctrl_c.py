"""Notices a Ctrl-C that is lost, because code that is imported may catch every exception, also KeyboardInterrupt."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

_presses = 0


def remember_ctrl_c() -> None:
    """Count each Ctrl-C from here on, besides raising KeyboardInterrupt. Call it in the main thread. Where SIGINT is ignored or
    handled by somebody else, this stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def ctrl_c_was_pressed() -> bool:
    """Whether there was one since `remember_ctrl_c`. A command that still works has lost it."""
    return _presses > 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _presses
    _presses += 1
    raise KeyboardInterrupt
