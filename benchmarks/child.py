"""A measurement in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Clock:
    """Seconds by part, wall and processor."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.parts[name] = {
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        }


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def device() -> str:
    """The processor of this machine; a benchmark on a GPU names that one instead."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{num_cores()} cores of {names[0]}" if names else f"{num_cores()} cores"


def peak_bytes() -> int:
    """Largest resident memory of this process image so far. Not `ru_maxrss`, which keeps a parent's peak across exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not say a process's peak memory in /proc/self/status")


def measured(module: str, *arguments: object) -> dict[str, Any]:
    """What `python -m MODULE ARGUMENTS` prints as its last line, one JSON document."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
