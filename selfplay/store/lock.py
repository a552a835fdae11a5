"""One driver at a time: an flock on run.lock, held for the life of the driver.

The kernel releases it when the driver dies, however it dies. Python opens files close-on-exec, so no process that the driver
starts inherits it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from selfplay.core.errors import CorruptionError, LockedError
from selfplay.core.json_text import parse_json
from selfplay.store.disk_errors import write_error
from selfplay.store.durable import read_file
from selfplay.store.process_identity import this_process

_AGAIN = "Remove it: it is created again."


class RunLock:
    """Context manager; entering raises LockedError when another driver holds the run. `role` is what holds it: the driver, or
    `gc`."""

    def __init__(self, path: Path, role: str = "driver") -> None:
        self._path = path
        self._role = role
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        try:
            # not through a symbolic link: the file that it leads to would be emptied
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CorruptionError(f"{self._path} is a symbolic link", _AGAIN) from None
            if error.errno == errno.EISDIR:
                raise CorruptionError(f"{self._path} is not a regular file", _AGAIN) from None
            raise write_error(self._path, 0, error) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a second name may be somebody's other file
            os.close(descriptor)
            fault = "has more than one hard link" if stat.S_ISREG(found.st_mode) else "is not a regular file"
            raise CorruptionError(f"{self._path} {fault}", _AGAIN)
        # `status` probes with a shared lock for an instant: one refusal is not yet a driver
        for _ in range(20):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            holder = read_holder(self._path)
            os.close(descriptor)
            who = f" (process {holder['pid']} on {holder['host']})" if holder else ""
            raise LockedError(
                f"{self._path.parent} is in use by another driver{who}",
                "Wait for it, or stop it (Ctrl-C or SIGTERM: it commits and stops).",
            )
        with contextlib.suppress(OSError):  # a full disk: it is held all the same, only its holder is not named
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({**this_process(), "role": self._role}).encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None


def read_holder(path: Path) -> dict[str, Any] | None:
    """Who wrote the lock file last (see process_identity.py, and its `role`); None when it says nothing readable."""
    try:
        return dict(parse_json(read_file(path)))
    except (OSError, ValueError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Whether a driver holds the lock now."""
    if path.is_symlink() or not path.is_file():
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
