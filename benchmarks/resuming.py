"""Benchmark `resuming`: from `selfplay resume` to the first new response, beyond the start of the engine.

The rounds that are done were made with fake workers, and their policies are copies of the first one. The resume is the real
command with real workers. The time ends when the first shard of one prompt is written. What the engine's worker spent on loading
(vLLM, the engine, and the policy), as the run records it, is taken off.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fake_backends import CopyingTrainer, FakeLogprobs, FakeSampler, FakeScorer
from benchmarks.figures import Given, Measured, alternate, median_of
from benchmarks.local_pool import LocalPool
from selfplay import api
from selfplay.core.pool import Workers
from selfplay.execution.progress import Reporter
from selfplay.quickstart.world import World, prepare

ROUNDS = (1, 50)
NUM_PROMPTS, NUM_RESPONSES = 64, 2
POLL = 0.005
LIMIT = 600.0


def measure(given: Given) -> Measured:
    """Seconds of wall time, after 1 and after 50 rounds."""
    with given.scratch() as root:
        world = prepare(root / "world", 0)
        rounds = [max(1, given.scaled(number)) for number in ROUNDS]
        for number in rounds:
            _make(root / f"{number}", world, number)
        parts: dict[str, list[dict[str, float]]] = {f"{number}": [] for number in rounds}
        runs: dict[str, Callable[[], float]] = {
            f"{number}": partial(_resume, root / f"{number}", number, parts[f"{number}"]) for number in rounds
        }
        found = alternate(runs, given.num_runs)
    work = f"{NUM_PROMPTS} prompts a round, small world"
    used = {number: [each["processor of the driver"] for each in runs_of] for number, runs_of in parts.items()}
    figures = []
    for done, seconds in found.items():
        name = f"{done} rounds done"
        figures += [
            median_of(f"resume to a response, beyond the engine: {name}", seconds, "s", work, bar=2.0),
            median_of(f"resume, processor of the driver: {name}", used[done], "s", work, clock="processor"),
        ]
    return Measured(figures, {"seconds": parts})


def _make(folder: Path, world: World, rounds: int) -> None:
    """A run with so many rounds done."""
    settings = {
        "policy": {"model": str(world.folder / "policy"), "dtype": "float32"},
        "prompts": {"source": str(world.folder / "prompts.jsonl"), "column": "prompt", "per_round": NUM_PROMPTS},
        "sampling": {"num_responses": NUM_RESPONSES, "max_tokens": 64},
        "reward": {"model": str(world.folder / "reward_model")},
        "selection": {"keep": 1.0},
        "training": {"beta": 0.1, "learning_rate": 1e-4, "batch_size": 16, "precision": "float32"},
        "storage": {"keep_policies": "all"},
        "report": {"every": 0},
        "rounds": rounds,
    }

    @contextlib.contextmanager
    def workers(*_: Any) -> Iterator[Workers]:
        yield Workers(
            LocalPool(FakeSampler()), LocalPool(FakeScorer()), LocalPool(FakeLogprobs()), LocalPool(CopyingTrainer())
        )

    api.start(settings, run_dir=folder, reporter=Reporter(quiet=True), workers=workers)


def _resume(made: Path, rounds: int, parts: list[dict[str, float]]) -> float:
    """Seconds until the first shard is there, less those in which the engine's worker loaded."""
    folder, trace = made.with_name("resumed"), made.with_name("trace.json")
    shutil.rmtree(folder, ignore_errors=True)
    trace.unlink(missing_ok=True)
    shutil.copytree(made, folder)
    command = [sys.executable, "-m", "selfplay", "resume", str(folder), f"rounds={rounds + 1}", "sampling.shard_size=1"]
    begun, wall = time.time(), 0.0
    with subprocess.Popen(
        [*command, "--trace", str(trace), "--trust-code"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not wall and process.poll() is None and time.time() - begun < LIMIT:
                wall = _first_shard(folder, rounds + 1, begun)
                time.sleep(POLL)
            driver, everything = _processor(process.pid)
            # the record of its time is written when the stage is committed
            while (
                process.poll() is None and time.time() - begun < LIMIT and not (loading := _loading(trace, "sampler-0"))
            ):
                time.sleep(POLL)
        finally:
            process.terminate()
    assert wall and loading, "the resumed run has sampled nothing"
    engine = sum(end - begin for begin, end in loading)
    parts.append(
        {
            "wall": wall,
            "engine": engine,
            "Ray": _seconds_of_ray(folder),
            "engine begins": loading[0][0] - begun,
            "processor of the driver": driver,
            "processor of all processes": everything,
        }
    )
    return wall - engine


def _processor(pid: int) -> tuple[float, float]:
    """Processor seconds of a process, and of all that it has started with it: of ended ones as far as their parents waited."""
    driver, *others = [
        process.cpu_times() for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]
    alone = driver.user + driver.system
    return alone, alone + driver.children_user + driver.children_system + sum(sum(times[:4]) for times in others)


def _first_shard(folder: Path, number: int, begun: float) -> float:
    """Seconds from `begun` until the first shard of the round was written; 0 where there is none."""
    # in its place once the stage is committed
    written = [
        path.stat().st_mtime
        for stage in (f".work/{number:03d}-sample", f"rounds/{number:03d}/sample")
        for path in (folder / stage).glob("**/*.parquet")
    ]
    return min(written) - begun if written else 0.0


def _loading(trace: Path, who: str) -> list[tuple[float, float]]:
    """The times in which a worker loaded, from the trace of a run that is under way; empty where it is not in there yet."""
    if not trace.is_file():
        return []
    events = [json.loads(line.rstrip(",")) for line in trace.read_text().splitlines() if line.endswith("},")]
    tracks = {each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name"}
    spans = sorted(
        (each["ts"] / 1e6, (each["ts"] + each["dur"]) / 1e6)
        for each in events
        if each["name"] == "loading" and tracks[each["tid"]] == who
    )
    found: list[tuple[float, float]] = []
    for begin, end in spans:
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _seconds_of_ray(folder: Path) -> float:
    newest = max((folder / "attempts").iterdir())
    events = [json.loads(line) for line in (newest / "events.jsonl").read_text().splitlines()]
    return sum(float(each["seconds"]) for each in events if each["event"] == "loaded" and each["what"] == "Ray")
