"""The identity of a process, by which another one can tell whether it still lives: on this host, after a restart, or elsewhere.

A process id alone is not enough: ids are reused, and mean nothing on another machine, after a restart or in another container.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """pid, host name, boot id of the kernel, the container's process namespace, and when the process started (clock ticks
    since boot). Null where the system does not say."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), **_kernel(), "process_started": started(pid)}


def is_here(who: dict[str, Any]) -> bool:
    """Whether the process runs, or ran, on this machine since it was last started."""
    return bool(who.get("boot_id") is not None and who["boot_id"] == _kernel()["boot_id"])


def is_alive(who: dict[str, Any]) -> bool | None:
    """Whether the process lives; None where that cannot be seen from here (another machine or container)."""
    if not is_here(who) or who.get("namespace") != _kernel()["namespace"] or who.get("process_started") is None:
        return None
    return bool(started(int(who["pid"])) == who["process_started"])


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none of that id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return int(fields[18]) if state != "Z" else None


def _kernel() -> dict[str, Any]:
    try:
        boot_id: str | None = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace: str | None = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot_id = namespace = None
    return {"boot_id": boot_id, "namespace": namespace}
