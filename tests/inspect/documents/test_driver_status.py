"""A dead driver is told from a live one: on this machine, after a restart, on another one, and in a copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from selfplay.inspect.documents.status import status_document
from selfplay.store import driver_heartbeat
from selfplay.store import process_identity as process
from selfplay.store.durable import json_with_checksum
from selfplay.store.lock import RunLock, read_holder
from selfplay.store.process_identity import is_alive, is_here, this_process
from selfplay.store.retention import gc_document
from selfplay.store.run import Store
from tests.helpers.make_run import make_run

ELSEWHERE = {
    "host": "node17",
    "boot_id": "0f0f0f0f-0000-4000-8000-000000000000",
    "namespace": "pid:[1]",
    "process_started": 5,
}


@pytest.fixture
def killed(tmp_path: Path) -> Store:
    """A run whose driver began an attempt on this machine and gave no word of an end."""
    store = make_run(tmp_path / "run", stop=(1, "sample"), outcome=None)
    with RunLock(store.layout.lock):
        pass
    notes(store, **this_process())
    with driver_heartbeat.heartbeat(store.layout.attempt(1)):
        pass
    return store


def notes(store: Store, **who: Any) -> None:
    """What the attempt noted of its driver."""
    path = store.layout.attempt(1) / "attempt.json"
    document = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "sha256"}
    inode = store.layout.lock.stat().st_ino
    path.write_bytes(json_with_checksum({**document, "lock_inode": inode, **who}))


def silent_for(store: Store, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.layout.attempt(1) / driver_heartbeat.NAME, (then, then))


def driver_of(store: Store) -> tuple[str, dict[str, Any] | None]:
    document = status_document(store.layout.root)
    return document["state"], document["driver"]


def test_at_work_here(killed: Store) -> None:
    with RunLock(killed.layout.lock):
        state, driver = driver_of(killed)
    assert state == "running"
    assert driver is not None
    assert list(driver) == ["pid", "host", "role", "alive", "silent_seconds", "said"]
    assert (driver["pid"], driver["role"], driver["alive"]) == (os.getpid(), "driver", True)


def test_killed_here_is_dead_at_once_however_fresh_its_sign_of_life(killed: Store) -> None:
    state, driver = driver_of(killed)
    assert state == "interrupted"
    assert driver is not None
    assert driver["alive"] is False
    assert driver["said"].startswith(f"none: process {os.getpid()} on ")
    assert "ended without recording it (last heartbeat 0 s ago)" in driver["said"]


def test_a_process_that_took_over_the_number_is_another(killed: Store) -> None:
    me = this_process()
    assert is_alive(me) is True
    assert is_alive({**me, "process_started": me["process_started"] - 1}) is False
    assert is_alive({**me, "pid": 2**22 + 7}) is False
    assert is_alive({**me, "namespace": "pid:[1]"}) is None  # a number of another container
    assert not is_here(me | ELSEWHERE) and is_alive(me | ELSEWHERE) is None
    assert is_here({"pid": 1}) is False


def test_on_another_machine_the_sign_of_life_decides(killed: Store) -> None:
    notes(killed, **ELSEWHERE, pid=77)
    silent_for(killed, 20)
    state, driver = driver_of(killed)
    assert (state, driver and driver["alive"]) == ("running", None)
    assert driver is not None
    assert "process 77 on node17" in driver["said"] and "last heartbeat 20 s ago" in driver["said"]
    silent_for(killed, 3 * 3600)
    state, driver = driver_of(killed)
    assert state == "interrupted"
    assert driver is not None
    assert "last heartbeat 3 h ago. Resume once you know that it has ended" in driver["said"]
    (killed.layout.attempt(1) / driver_heartbeat.NAME).unlink()
    assert driver_of(killed)[0] == "interrupted"


def test_a_clock_that_runs_ahead_is_no_death(killed: Store) -> None:
    notes(killed, **ELSEWHERE)
    silent_for(killed, -500)
    assert driver_of(killed)[0] == "running"


def test_a_copy_is_nobodys_though_it_carries_everything_along(killed: Store, tmp_path: Path) -> None:
    for who in ({}, ELSEWHERE):
        notes(killed, **who)
        silent_for(killed, 1)
        target = tmp_path / f"copy{len(who)}"
        with RunLock(killed.layout.lock):
            shutil.copytree(killed.layout.root, target)
            state, driver = driver_of(Store.open(target))
        assert state == "interrupted"
        assert driver is not None
        assert driver["said"].startswith("none here: this is a copy of a run that process")
    (target / "run.lock").unlink()
    assert driver_of(Store.open(target))[0] == "interrupted"


def test_an_end_is_an_end_whatever_the_lock_file_says(killed: Store) -> None:
    killed.end_attempt(1, "failed", "out of memory")
    assert read_holder(killed.layout.lock) is not None
    assert driver_of(killed) == ("failed", None)


def test_gc_at_work_is_no_driver(killed: Store) -> None:
    with RunLock(killed.layout.lock, "gc"):
        state, driver = driver_of(killed)
    assert state == "interrupted"
    assert driver is not None
    assert driver["said"].startswith("none; `selfplay gc` is running (process ")
    assert gc_document(killed, 2, dry_run=True)["policies"] == []


def test_something_that_a_dead_driver_left_behind_holds_the_lock(killed: Store) -> None:
    # the lock goes to a child, and its holder dies
    code = (
        "import os, sys, time; from pathlib import Path; from selfplay.store.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.__enter__(); os.set_inheritable(lock._descriptor, True)\n"
        "import subprocess; quiet = subprocess.DEVNULL\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=quiet, stderr=quiet)\n"
        "print(child.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(killed.layout.lock)], capture_output=True, text=True, check=True
    )
    try:
        state, driver = driver_of(killed)
    finally:
        os.kill(int(done.stdout), 9)
    assert state == "running"
    assert driver is not None
    assert driver["alive"] is False
    assert "a process that it started still holds the lock" in driver["said"]


def test_the_sign_of_life_is_renewed_and_its_loss_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_heartbeat, "INTERVAL", 0.01)
    renewed, real = [], os.utime

    def utime(path: Path) -> None:
        renewed.append(path)
        real(path)

    monkeypatch.setattr(os, "utime", utime)
    with driver_heartbeat.heartbeat(tmp_path):
        while len(renewed) < 2:
            time.sleep(0.01)
        (tmp_path / "alive").unlink()
        before = len(renewed)
        while len(renewed) < before + 2:
            time.sleep(0.01)
    assert driver_heartbeat.seconds_since_heartbeat(tmp_path) is None


def test_a_system_without_proc_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_kernel", lambda: {"boot_id": None, "namespace": None})
    assert not is_here(this_process())
    assert is_alive(this_process()) is None
