"""How a process ended, as another process than its parent learns it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from selfplay.execution.ray.exit_status import ExitWatch


def ended(code: str) -> ExitWatch:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, sys; sys.stdin.read(); {code}"], stdin=subprocess.PIPE
    )
    watch = ExitWatch()
    watch.watch(process.pid)
    process.communicate()
    return watch


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        ("os._exit(7)", " (exit code 7)", "os._exit"),
        ("sys.exit(0)", " (exit code 0)", "exit code 0"),
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", " (SIGSEGV)", "compiled code"),
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", " (SIGKILL)", "a lack of memory"),
        (f"os.kill(os.getpid(), {signal.SIGRTMIN + 1})", f" (signal {signal.SIGRTMIN + 1})", "compiled code"),
    ],
)
def test_exit_codes_and_signals(code: str, words: str, hint: str) -> None:
    watch = ended(code)
    # an older kernel does not tell
    assert watch.described() in (words, "")
    assert hint in watch.hint() or watch.status() is None
    watch.close()


def test_what_is_not_known() -> None:
    watch = ExitWatch()
    assert watch.status() is None and watch.described() == "" and "memory" in watch.hint()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    watch.watch(gone.pid)
    assert watch.status() is None
    watch.close()


def test_a_process_that_lives_is_not_waited_for_longer_than_a_second() -> None:
    watch, started = ExitWatch(), time.monotonic()
    watch.watch(os.getpid())
    assert watch.status() is None and time.monotonic() - started < 10
    watch.close()
