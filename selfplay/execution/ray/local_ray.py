"""A Ray of the driver's own, on this machine: watched while the driver waits for its workers, ended with it, however it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from selfplay.core.errors import BackendError

# without one of these nothing goes on; of Ray's others the next start tells
NEEDED = ("gcs_server", "raylet")


class OwnRay:
    """Made right after ray.init."""

    def __init__(self) -> None:
        import ray

        self._node: Any = ray._private.worker._global_node
        self._started = {
            info.process.pid: (kind, info.process) for kind, infos in self._node.all_processes.items() for info in infos
        }
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py")), *map(str, self._started)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise BackendError where Ray itself has died: its workers are gone, or will be, and none can be started."""
        for pid, (kind, process) in self._started.items():
            code = process.poll() if kind in NEEDED else None
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise BackendError(
                    f"Ray's {kind} (process {pid}) has died ({how}), and the workers with it",
                    f"Committed work is safe. Its logs are in {self._node.get_session_dir_path()}/logs; out of memory is the "
                    "usual reason, somebody's `ray stop` another. Mend the cause, then `selfplay resume`.",
                )

    def end(self) -> None:
        """`ray.shutdown`, with SIGKILL to its processes: to be asked first, which they cannot hear, would cost a second each.
        What they started goes with them, Ray's two agents too, which otherwise stay for a while."""
        import ray

        end = self._node.kill_all_processes
        self._node.kill_all_processes = lambda **_: end(check_alive=False, allow_graceful=False)
        try:
            ray.shutdown()
        finally:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            # it has a deadline of its own, and goes on without us
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._reaper.wait(timeout=5)
