"""One driver at a time, told apart by the kernel and not by a file that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfplay.core.errors import CorruptionError, LockedError
from selfplay.store.lock import RunLock, is_held, read_holder

HOLD = """
import sys, time
from pathlib import Path
from selfplay.store.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_a_second_process_is_refused_until_the_first_is_gone(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert is_held(path)
    with (
        pytest.raises(LockedError, match=rf"in use by another driver \(process {holder.pid} on ") as error,
        RunLock(path),
    ):
        pass
    assert error.value.exit_code == 3
    assert "Wait for it, or stop it" in error.value.hint
    # however it dies
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_held(path)
    with RunLock(path):
        assert read_holder(path)["pid"] == os.getpid()  # type: ignore[index]


def test_it_is_free_again_after_use_and_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not is_held(path)
    with pytest.raises(KeyError), RunLock(path):
        assert is_held(path)
        raise KeyError
    with RunLock(path):
        pass
    assert not is_held(path)


def test_a_process_the_driver_starts_does_not_inherit_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run.lock"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        time.sleep(0.2)
        assert child.poll() is None
        assert not is_held(tmp_path / "run.lock")
    finally:
        child.kill()
        child.wait()


def test_a_lock_file_that_says_nothing_is_no_holder(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("half a")
    assert read_holder(tmp_path / "run.lock") is None
    assert read_holder(tmp_path / "none") is None
    with RunLock(tmp_path / "run.lock"):
        assert read_holder(tmp_path / "run.lock") is not None


def test_a_lock_file_with_a_second_name_is_refused_and_not_emptied(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "run.lock").hardlink_to(other)
    with pytest.raises(CorruptionError, match=r"run\.lock has more than one hard link"), RunLock(tmp_path / "run.lock"):
        pass
    assert other.read_text() == "mine"
