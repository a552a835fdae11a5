"""What a driver started, by process ids: told apart, signalled as a batch system does, and waited for until it is gone."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest


def family_of(child: Any) -> list[psutil.Process]:
    """All that a driver has started: Ray, workers, engines."""
    return list(psutil.Process(child.pid).children(recursive=True))


def is_alive(process: int) -> bool:
    """Whether it runs; one that only waits to be reaped has ended."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def lines_of(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that are alive."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline()).strip()
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(line)
    return found


def check_gone(family: list[psutil.Process], seconds: float = 10) -> None:
    """Everything that the driver had started is gone within so many seconds."""
    assert len(family) >= 4, "a raylet, a gcs server and workers were expected"
    deadline = time.monotonic() + seconds
    while left := lines_of(family):
        assert time.monotonic() < deadline, f"outlived the driver: {left}"
        time.sleep(0.1)


def signal_everybody(child: Any, number: int) -> list[psutil.Process]:
    """A signal to the driver and to all that it started, as Slurm sends it to the processes of a step; returns the latter."""
    family = family_of(child)
    child.send_signal(number)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return family


@contextlib.contextmanager
def workers_find_the_tests() -> Iterator[None]:
    """Around the start of Ray: its workers can import what is in `tests/`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
        yield
