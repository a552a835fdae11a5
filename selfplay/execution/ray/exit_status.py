"""How a worker's process ended: its exit code, or the signal that killed it.

Ray's raylet is the parent of a worker and does not report either. Linux 6.15 and newer tell them to every process that holds a
pidfd (`PIDFD_INFO_EXIT`, linux/pidfd.h); on older kernels, and for workers on other nodes, they are not known.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal

# Seconds that a process may take to end after its socket is closed.
WAIT = 1.0


class _PidfdInfo(ctypes.Structure):
    """struct pidfd_info in its first size (64 bytes)."""

    _fields_ = (
        ("mask", ctypes.c_uint64),
        ("cgroupid", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("pid", "tgid", "ppid", "ruid", "rgid", "euid", "egid")),
        *((name, ctypes.c_uint32) for name in ("suid", "sgid", "fsuid", "fsgid")),
        ("exit_code", ctypes.c_int32),
    )


_EXIT = 1 << 3  # PIDFD_INFO_EXIT
_GET_INFO = 3 << 30 | ctypes.sizeof(_PidfdInfo) << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)

_NO_MEMORY = "The usual reason is a lack of memory: free some, or lower the worker's batch size."


class ExitWatch:
    """Watches one process of this machine at a time."""

    def __init__(self) -> None:
        self._pidfd: int | None = None

    def watch(self, pid: int) -> None:
        """Watch a process from now on, while it lives."""
        self.close()
        with contextlib.suppress(OSError):  # it has ended
            self._pidfd = os.pidfd_open(pid)

    def status(self) -> int | None:
        """The exit code, or -N for signal N, as `subprocess` has it; None where it is not known."""
        if self._pidfd is None:
            return None
        select.select([self._pidfd], [], [], WAIT)
        info = _PidfdInfo(mask=_EXIT)
        try:
            fcntl.ioctl(self._pidfd, _GET_INFO, info)
        except OSError:  # an older kernel
            return None
        return os.waitstatus_to_exitcode(info.exit_code) if info.mask & _EXIT else None

    def described(self) -> str:
        """The exit status in parentheses, with a space before them: " (exit code 7)", " (SIGSEGV)". Empty for one that is not
        known."""
        status = self.status()
        if status is None:
            return ""
        return f" (exit code {status})" if status >= 0 else f" ({_name(-status)})"

    def hint(self) -> str:
        """What usually ends a process in this way, and what to do, as sentences."""
        status = self.status()
        if status is None:
            return _NO_MEMORY
        if status == -signal.SIGKILL:
            return f"SIGKILL came from outside its code. {_NO_MEMORY}"
        if status < 0:
            return f"{_name(-status)} comes from compiled code: a library that the worker calls crashed."
        return f"The process ended itself with exit code {status}: look for os._exit, or a library that calls exit."

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
