"""Heartbeats from inside a worker, which distinguish a worker that hangs from one that is slow.

A backend calls `beat()` after each unit of work (a batch, an engine step, an optimizer step). In a monitored worker process it
touches the worker's heartbeat file, which the driver watches; everywhere else it does nothing. It is a sign of progress, not of
life: a process that is alive and does nothing has no heartbeat.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Fraction of the timeout after which a worker without a heartbeat writes its stacks to its log.
_DUMP_AT = 0.8


class HeartbeatWriter:
    """Writes the heartbeats of this process. `timeout`: seconds without one after which the driver kills it; before
    that its stacks are written to `log`."""

    def __init__(self, path: Path, timeout: float, log: IO[str]) -> None:
        self._path, self._log = path, log
        self._dump_after = _DUMP_AT * timeout
        self._every = min(1.0, timeout / 20)
        self._last = 0.0
        self._lock = threading.Lock()
        self._num_calls = 0
        path.touch()

    def beat(self, *, now: bool = False) -> None:
        """Record progress; at most once in a short interval, unless `now`."""
        moment = time.monotonic()
        if not now and moment - self._last < self._every:
            return
        self._last = moment
        os.utime(self._path)
        # a C thread, which does not need the GIL: it writes even if C code never releases it
        faulthandler.dump_traceback_later(self._dump_after, file=self._log)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A call is running; where none is, no progress is expected."""
        with self._lock:
            self._num_calls += 1
        self.beat(now=True)
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if not self._num_calls:
                    faulthandler.cancel_dump_traceback_later()
            os.utime(self._path)


_writer: HeartbeatWriter | None = None


def set_writer(writer: HeartbeatWriter | None) -> None:
    """Use `writer` for `beat()` in this process."""
    global _writer
    _writer = writer


def beat() -> None:
    """Report that one unit of work is done."""
    if _writer is not None:
        _writer.beat()
