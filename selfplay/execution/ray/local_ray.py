"""The driver's private Ray instance on this machine. It is watched while the driver waits for workers, and it ends with the
driver, however the driver ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from selfplay.core.errors import BackendError
from selfplay.execution.ray.private_api import LocalNode

# no worker can run without these; if another of Ray's processes dies, the next start of a worker reports it
ESSENTIAL = ("gcs_server", "raylet")


class LocalRay:
    """Create it right after ray.init."""

    def __init__(self) -> None:
        self._node = LocalNode()
        self._started = self._node.processes()
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("orphan_reaper.py")), *map(str, self._started)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise BackendError if Ray itself has died: its workers are gone, or will be, and no new one can start."""
        for pid, (kind, process) in self._started.items():
            code = process.poll() if kind in ESSENTIAL else None
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise BackendError(
                    f"Ray's {kind} (process {pid}) has died ({how}), and the workers with it",
                    f"Committed work is safe. Its logs are in {self._node.session_folder()}/logs; out of memory is the "
                    "usual reason, a `ray stop` another. Fix the cause, then `selfplay resume`.",
                )

    def end(self) -> None:
        """`ray.shutdown` with SIGKILL: Ray would first send SIGTERM, which its processes do not receive, and wait a second for
        each. What they started ends with them, including Ray's two agents, which otherwise stay for a while."""
        import ray

        self._node.kill_at_shutdown()
        try:
            ray.shutdown()
        finally:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            # it has its own deadline, and continues without us
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._reaper.wait(timeout=5)
