"""Signs of progress from inside a worker, so that one that hangs can be told from one that is slow.

A backend calls `beat()` after each unit of work (a batch, an engine step, an optimizer step). In a worker process that is
watched a beat touches the worker's beat file, whose changes the driver looks at; everywhere else it does nothing. Not a sign of
life: a process that is there and does nothing gives no beat.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Of the time without a beat after which the driver ends a worker, when it writes where it stands to its log.
_DUMP_AT = 0.8


class Beats:
    """The beats of this process. `timeout`: seconds without one after which the driver ends it; `log` gets the stacks before."""

    def __init__(self, path: Path, timeout: float, log: IO[str]) -> None:
        self._path, self._log = path, log
        self._dump_after = _DUMP_AT * timeout
        self._every = min(1.0, timeout / 20)
        self._last = 0.0
        path.touch()

    def beat(self, *, now: bool = False) -> None:
        """Say that something was done; at most once in a while, unless `now`."""
        moment = time.monotonic()
        if not now and moment - self._last < self._every:
            return
        self._last = moment
        os.utime(self._path)
        # a thread of C's, which needs no lock of Python's: it writes also when C code holds that for ever
        faulthandler.dump_traceback_later(self._dump_after, file=self._log)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A call is under way; between calls nothing is expected."""
        self.beat(now=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            os.utime(self._path)


_watched: Beats | None = None


def watch(beats: Beats | None) -> None:
    """Let `beat()` of this process go to these beats."""
    global _watched
    _watched = beats


def beat() -> None:
    """One unit of work is done."""
    if _watched is not None:
        _watched.beat()
