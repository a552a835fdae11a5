"""The limits of the machine and the shell, and what a run needs: open files, processes, address
space, shared memory, temporary files, the loopback interface.

`doctor` reports all of it; a Ray or a worker that does not start reports what is short.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfplay.core.errors import ResourceError

# The name of a socket has up to 107 bytes (sun_path). Ray adds up to 64 to its folder (session, sockets, plasma_store), and our
# private folder takes 20.
LONGEST_TEMP = 22
# Ray's logs, and the files of libraries while they load.
TEMP_BYTES = 64 << 20
SHARED_MEMORY = Path("/dev/shm")
# Ray's object store.
SHARED_BYTES = 512 << 20
OPEN_FILES = 1024
PROCESSES = 1024
ADDRESS_SPACE = 64 << 30
LOOPBACK_SECONDS = 3.0
# What is looked at, by the names of `Shortage`.
LIMITS = ("open files", "processes", "address space", "shared memory", "temporary files", "loopback")


@dataclass(frozen=True, slots=True)
class Shortage:
    """Something that a run needs more of. Example: Shortage("open files", "a process may have 256 files open; a run needs 1024",
    "`ulimit -n 4096` before the command.")"""

    name: str
    message: str
    hint: str
    # no run can start with it
    is_fatal: bool = False


def shortages() -> Iterator[Shortage]:
    """Limits of this machine and process that a run may exceed; empty if there are none."""
    yield from _rlimits()
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < SHARED_BYTES:
        yield Shortage(
            "shared memory",
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free; a run needs {SHARED_BYTES / 1e6:.0f} MB",
            "In a container: --shm-size=2g. Otherwise remove what other programs left there.",
        )
    for check, name in ((ray_temp, "temporary files"), (check_loopback, "loopback")):
        try:
            check()
        except ResourceError as error:
            yield Shortage(name, error.message, error.hint, is_fatal=True)


def describe_shortages() -> str:
    """`shortages` in lines of their own that follow a message; empty where nothing is short."""
    lines = [f"{found.name}: {found.message}. {found.hint}" for found in shortages()]
    return ("\n  this machine may lack:\n    " + "\n    ".join(lines)) if lines else ""


def _rlimits() -> Iterator[Shortage]:
    for name, number, needed, what, hint in (
        ("open files", resource.RLIMIT_NOFILE, OPEN_FILES, "files open", "`ulimit -n 4096`"),
        ("processes", resource.RLIMIT_NPROC, PROCESSES, "processes and threads", "`ulimit -u 4096`"),
        ("address space", resource.RLIMIT_AS, ADDRESS_SPACE, "of address space", "`ulimit -v unlimited`"),
    ):
        allowed = resource.getrlimit(number)[0]
        # root has as many processes as it wants
        if allowed == resource.RLIM_INFINITY or (number == resource.RLIMIT_NPROC and os.geteuid() == 0):
            continue
        if allowed < needed:
            yield Shortage(
                name,
                f"a process may have {_amount(number, allowed)} {what}; a run needs {_amount(number, needed)}",
                f"{hint} before the command, or ask the administrator of the machine.",
            )


def _amount(number: int, value: int) -> str:
    return f"{value / 1e9:.1f} GB" if number == resource.RLIMIT_AS else str(value)


def check_loopback() -> None:
    """Raise ResourceError where a program cannot connect to another one at 127.0.0.1, as the parts of Ray do."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=LOOPBACK_SECONDS).close()
    except OSError as error:
        raise ResourceError(
            f"a program cannot connect to another one at 127.0.0.1 on this machine ({error}): the loopback interface is "
            "down, or a firewall blocks it",
            "`ip link set lo up` (as root) sets it up; `ip addr show lo` shows it.",
        ) from None


def temp_folder() -> Path:
    """The folder for temporary files. Raises ResourceError where the one that TMPDIR (TEMP, TMP) names cannot be used: Python
    would silently use another one, and other libraries would fail in it."""
    named = next(((name, value) for name in ("TMPDIR", "TEMP", "TMP") if (value := os.environ.get(name))), None)
    if named is None:
        return _usable([Path("/tmp"), Path("/var/tmp")])
    name, value = named
    folder = Path(value)
    if why := _unusable(folder):
        raise ResourceError(f"{name} is {folder}, which cannot be used: {why}", f"Set {name} to a folder with room.")
    return folder


def ray_temp() -> Path:
    """The folder in which the private folder of a local Ray is made: that of temporary files or, where its name is too long for
    Ray's sockets or other users may rename what is in it, /tmp or another short one. Raises ResourceError where none can be
    used."""
    folder = temp_folder().absolute()
    mode = folder.stat().st_mode
    renamable = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
    if len(os.fsencode(folder)) <= LONGEST_TEMP and not renamable:
        return folder
    return _usable([Path("/tmp"), Path("/var/tmp"), SHARED_MEMORY])


def _usable(folders: list[Path]) -> Path:
    reasons = {folder: _unusable(folder) for folder in folders}
    for folder, why in reasons.items():
        if not why:
            return folder
    said = "; ".join(f"{folder}: {why}" for folder, why in reasons.items())
    raise ResourceError(
        f"there is no usable folder for temporary files ({said})",
        f"Make room in one of them, or set TMPDIR to another folder, for Ray's sockets one of at most {LONGEST_TEMP} characters.",
    )


def _unusable(folder: Path) -> str:
    """Why temporary files cannot be made in a folder; empty where they can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65536)
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return "" if free >= TEMP_BYTES else f"{free / 1e6:.0f} MB are free; a run needs {TEMP_BYTES / 1e6:.0f} MB"
