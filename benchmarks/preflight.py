"""Benchmark `preflight`: what the checks before a run add to the time of a quickstart.

The quickstart's run on a ready world, in turns with the same run that takes what its checks found from a file. Both begin Ray and
the import of vLLM at once, and load the tokenizer that the driver needs: the difference is what only the checks do. They run
beside the import of vLLM, so that the difference of wall times is less than the time that they take.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.child import measured
from benchmarks.figures import Given, Measured, alternate, median_of, ratios
from selfplay.quickstart.world import prepare

ROUNDS = 3


def measure(given: Given) -> Measured:
    """Shares of the wall time to the first response and to the end, and processor seconds of the checks alone."""
    with given.scratch() as root:
        world = prepare(root / "world", 0)
        checks = measured("benchmarks.preflight_parts", "check", world.config, root / "prepared")
        seconds: dict[str, list[float]] = {"checked": [], "taken": []}
        rounds = given.scaled(ROUNDS)
        files = {"checked": "", "taken": str(root / "prepared")}
        ends = alternate(
            {name: partial(_run, root, world.config, rounds, file, seconds[name]) for name, file in files.items()},
            given.num_runs,
        )
    work = f"{rounds} rounds of the quickstart's world"
    first = [1 - share for share in ratios(seconds["taken"], seconds["checked"])]
    whole = [1 - share for share in ratios(ends["taken"], ends["checked"])]
    figures = [
        median_of("checks: share of a quickstart", whole, "", work, bar=0.05),
        median_of("checks: share of the time to the first response", first, "", work),
        median_of("checks, libraries imported", [checks["again"]], "s", "of the driver and its children", clock="processor"),
        median_of("checks, with imports", [checks["first"]], "s", "of the driver and its children", clock="processor"),
    ]  # fmt: skip
    return Measured(figures, {"first response": seconds, "end": ends})


def _run(root: Path, config: Path, rounds: int, prepared: str, first: list[float]) -> float:
    """Seconds of a whole run; those to its first response go to `first`."""
    folder = root / f"run-{time.time_ns()}"
    command = [sys.executable, "-m", "benchmarks.preflight_parts", "run", str(config), str(folder), str(rounds)]
    begun = time.time()
    done = subprocess.run(
        [*command, prepared], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    first.append(json.loads(done.stdout.splitlines()[-1])["first response at"] - begun)
    return time.time() - begun
