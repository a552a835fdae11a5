"""A driver's heartbeat for other hosts: the time stamp of `attempts/N/alive`, renewed every few seconds while it lives.

On its own host the lock says whether it lives. Elsewhere, on a file system whose locks do not reach so far, only this does.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from selfplay.store import durable

INTERVAL = 10.0
# longer than a slow network file system shows an old time stamp
MAX_AGE = 90.0
NAME = "alive"


@contextlib.contextmanager
def heartbeat(attempt: Path) -> Iterator[None]:
    """Renew the sign of life in an attempt's folder until this ends. That it cannot be renewed is no reason to stop a run."""
    path = attempt / NAME
    durable.write_file(path, b"")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(INTERVAL):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def seconds_since_heartbeat(attempt: Path) -> float | None:
    """Age of the last sign of life by the clocks of this host and the file system; None where there never was one."""
    try:
        return max(time.time() - (attempt / NAME).lstat().st_mtime, 0.0)
    except OSError:
        return None
