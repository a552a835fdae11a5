"""The driver's side of worker heartbeats: how long a worker has made no progress, and how it is killed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


class HeartbeatMonitor:
    """When a worker last made progress. Only changes of its heartbeat file count, by this process's clock: the clocks of two
    machines are never compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._beat()
        self._since = time.monotonic()

    def _beat(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:  # the worker has not started
            return 0

    def restart(self) -> None:
        """Work begins now."""
        self._since = time.monotonic()

    def idle(self) -> float:
        """Seconds since the last heartbeat, or since work began."""
        beat = self._beat()
        if beat != self._seen:
            self._seen, self._since = beat, time.monotonic()
        return time.monotonic() - self._since


def kill_process_tree(pid: int) -> None:
    """SIGKILL to a process of this machine and to all that it started. A process that is stopped, or in C code, reacts to no
    other signal."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        for process in [*worker.children(recursive=True), worker]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
