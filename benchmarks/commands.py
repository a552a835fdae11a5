"""Benchmark `commands`: how long a user waits for commands that compute nothing, start-up of Python included."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from functools import partial

from benchmarks import hostile_run
from benchmarks.figures import Given, Measured, alternate, median_of

RESPONSES = 2_000


def measure(given: Given) -> Measured:
    """Seconds of each command, beside a Python that does nothing."""
    with given.scratch() as folder:
        run = str(hostile_run.make(folder / "run", given.scaled(RESPONSES)).layout.root)
        lines = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "--help": [sys.executable, "-m", "selfplay", "--help"],
            "status": [sys.executable, "-m", "selfplay", "status", run],
            "rounds": [sys.executable, "-m", "selfplay", "rounds", run],
            "show": [sys.executable, "-m", "selfplay", "show", run, "1"],
        }
        used: dict[str, list[float]] = {name: [] for name in lines}

        def seconds(name: str) -> float:
            wall, processor = _seconds(lines[name])
            used[name].append(processor)
            return wall

        for line in lines.values():
            _seconds(line)  # bytecode is compiled and files are in memory
        found = alternate({name: partial(seconds, name) for name in lines}, given.num_runs)
    bars = {"--help": 0.3, "status": 0.5, "rounds": 0.5}
    work = "start-up included"
    figures = [median_of(f"command: {name}", each, "s", work, bar=bars.get(name)) for name, each in found.items()]
    figures += [
        median_of(f"command, processor: {name}", each, "s", work, bar=bars.get(name), clock="processor")
        for name, each in used.items()
    ]
    return Measured(figures, {})


def _seconds(line: list[str]) -> tuple[float, float]:
    """Seconds of wall and of processor. On a busy machine only the second can be judged."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor
