"""A process beside the driver that outlives it for a moment: after a SIGKILL of the driver it kills what is left of its Ray.

The kernel ends what the driver started itself. Workers notice the end of their raylet by a thread of Ray's, and one that is just
being started may wait a minute or more for a server that is gone. Each process that the driver started leads a session (see
signal_mask.py), so what is left of it can be found. The private folder of that Ray is deleted last.

Run as a script, with Python's library only: the folder as the argument, and as stdin a pipe whose other end the driver holds.
Each process that the driver starts for Ray writes its id into it, as a line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

# a process that takes longer to end is blocked in the kernel
DEADLINE = 60.0


def processes() -> dict[int, tuple[str, int]]:
    """State and session of every process by its id, as /proc tells."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - the whole of the standard library is not loaded here
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    # the name in parentheses may hold anything
                    fields = file.read().rpartition(")")[2].split()
                found[int(name)] = (fields[0], int(fields[3]))
    return found


def left_of(sessions: set[int]) -> list[int]:
    """Processes of these sessions that are alive."""
    return [pid for pid, (state, session) in processes().items() if session in sessions and state not in "ZX"]


def main() -> None:
    """Wait for the driver's end, then kill what is left and delete the folder."""
    # a signal that stops the driver is often sent to every process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions = {int(pid) for pid in sys.stdin.buffer.read().split()}
    deadline = time.monotonic() + DEADLINE
    while (left := left_of(sessions)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
