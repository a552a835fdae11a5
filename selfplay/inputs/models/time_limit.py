"""A time limit for foreign Python code that runs in this process, such as a chat template that never ends.

A thread looks at the clock and raises `OutOfTime` in the thread that is late. The exception arrives between two bytecodes: it
ends a loop, and not one long call into C. Signals would do the same in the main thread only, and callers use their timers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator

_POLL_SECONDS = 0.25
_lock = threading.Lock()
_deadlines: dict[int, float] = {}  # by thread, in seconds of the monotonic clock
_watcher: threading.Thread | None = None


def _begin_anew() -> None:
    """In a forked process: the thread is not there, and what it held is not given back."""
    global _lock, _watcher
    _lock, _watcher = threading.Lock(), None
    _deadlines.clear()


os.register_at_fork(after_in_child=_begin_anew)


class OutOfTime(Exception):
    """The code under a time limit did not end in time."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once it has run for `seconds`. Blocks of one thread are not nested."""
    thread = threading.get_ident()
    _start(thread, time.monotonic() + seconds)
    try:
        yield
    finally:
        with _lock:
            in_time = _deadlines.pop(thread, None) is not None
            if not in_time:
                # it may have been raised in this thread already, or still be on its way
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
    if not in_time:
        raise OutOfTime


def _start(thread: int, deadline: float) -> None:
    global _watcher
    with _lock:
        _deadlines[thread] = deadline
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(target=_watch, name="time-limit", daemon=True)
            _watcher.start()


def _watch() -> None:
    """End the blocks that are late. This thread ends when it finds none under way; the next block starts another."""
    global _watcher
    while True:
        time.sleep(_POLL_SECONDS)
        with _lock:
            if not _deadlines:
                _watcher = None
                return
            now = time.monotonic()
            for thread in [thread for thread, deadline in _deadlines.items() if deadline <= now]:
                del _deadlines[thread]
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))
