"""Whether a driver is working on a run (`status`).

On the driver's own machine only its lock tells: the kernel releases it when the process ends, however it ends. The process id
only adds detail. On another machine the lock may not be visible (this depends on the file system); there the heartbeat tells: the
time stamp of `attempts/N/alive`. A copy of a run directory contains the lock file and the heartbeat too. It is recognized by the
inode of the lock file, which the driver recorded when it started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfplay.core.format import age
from selfplay.store.driver_heartbeat import MAX_AGE, seconds_since_heartbeat
from selfplay.store.lock import is_held, read_holder
from selfplay.store.process_identity import is_alive, is_here
from selfplay.store.run import Store


@dataclass(frozen=True, slots=True)
class Driver:
    """`running`: a driver is at work. `who` is the process (empty: none is known), `alive` whether it lives (null: cannot be
    seen from here), `silent_seconds` the age of its last heartbeat; `said` is all that in words."""

    running: bool
    who: dict[str, Any]
    alive: bool | None
    silent_seconds: float | None
    said: str

    def to_json(self) -> dict[str, Any] | None:
        """As in `status --json`; null where there is none."""
        if not self.who:
            return None
        silent = None if self.silent_seconds is None else round(self.silent_seconds, 1)
        names = ("pid", "host", "role")
        return {
            **{name: self.who.get(name) for name in names},
            "alive": self.alive,
            "silent_seconds": silent,
            "said": self.said,
        }


NOBODY = Driver(False, {}, None, None, "")


def liveness(store: Store, attempts: list[dict[str, Any]]) -> Driver:
    """Who is, or was last, at work. `attempts` are the documents of the run's attempts, oldest first."""
    last = attempts[-1] if attempts else {}
    silent = seconds_since_heartbeat(store.layout.attempt(last["attempt"])) if last else None
    if is_held(store.layout.lock):
        return _holder(read_holder(store.layout.lock) or {}, silent)
    if not last or last["end"] is not None:
        return NOBODY
    who = {**last, "role": "driver"}
    name = f"process {last.get('pid')} on {last.get('host')}"
    ago = f"last heartbeat {age(silent)} ago" if silent is not None else "there is no heartbeat"
    if not store.layout.lock.is_file() or store.layout.lock.stat().st_ino != last.get("lock_inode"):
        return Driver(False, who, None, silent, f"none here: this is a copy of a run that {name} worked on")
    if is_here(last):
        return Driver(False, who, False, silent, f"none: {name} ended without recording it ({ago})")
    if silent is not None and silent < MAX_AGE:
        return Driver(True, who, None, silent, f"{name}, another machine or one before its restart; {ago}")
    lost = f"none visible from here: {name}, another machine or one before its restart; {ago}"
    return Driver(False, who, None, silent, f"{lost}. Resume once you know that it has ended")


def _holder(who: dict[str, Any], silent: float | None) -> Driver:
    """Somebody holds the lock, as the kernel sees it."""
    role = who.get("role", "driver")
    name = f"process {who.get('pid')} on {who.get('host')}" if who else "an unknown process"
    alive = is_alive(who) if who else None
    if role != "driver":
        return Driver(False, who, alive, None, f"none; `selfplay {role}` is running ({name})")
    if alive is False:
        return Driver(True, who, alive, silent, f"{name} has ended, but a process that it started still holds the lock")
    return Driver(True, who or {"role": role}, True if alive is None else alive, silent, name)
