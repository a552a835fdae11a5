"""The driver's side of worker heartbeats: how long a worker has made no progress, how it is killed, and what its log says."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

_WORKER = "selfplay/execution/ray/worker.py"


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


def crash_frames(log: str, lines: int) -> list[str]:
    """The fatal signal and the innermost frames, if a worker's log ends with faulthandler's report of one; else an empty list."""
    _, fatal, rest = log.rpartition("Fatal Python error: ")
    told = rest.splitlines()
    if not fatal or not told or not told[-1].startswith(("Extension modules: ", "  File ")):
        return []
    frames = [line.strip() for line in told if line.startswith("  File ")]
    return [told[0], *frames[:lines]]


def hang_frames(log: str, lines: int) -> list[str]:
    """The innermost frames of the call from the last stack dump (see heartbeat.py) in a worker's log; empty without one."""
    _, dumped, stacks = log.rpartition("Timeout (")
    if not dumped:
        return []
    for block in stacks.split("\n\n"):
        frames = [line.strip() for line in block.splitlines() if line.strip().startswith("File ")]
        at = [i for i, frame in enumerate(frames) if _WORKER in frame and frame.endswith((" in call", " in work"))]
        if at:
            return frames[: min(lines, at[0] + 1)]
    return []
