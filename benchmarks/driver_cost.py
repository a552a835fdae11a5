"""Benchmark `driver_cost`: processor time of the driver for each response of *sample*, with workers that cost nothing.

The real stage code cuts, asks, checks, puts shards together and writes them, in one process; simulated engines answer at once.
The cost must not grow with the number of prompts or replicas. The figures with Ray between are of real actors that return a table
at once, with as many calls in flight as many engines would hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from benchmarks.figures import Figure, Given, Measured, alternate, median_of
from benchmarks.local_pool import LocalPool
from selfplay.core.pool import IN_FLIGHT, BackendSpec, Call
from selfplay.core.protocols import SampleRequest, SamplingSettings
from selfplay.execution.dispatch import Dispatch
from selfplay.execution.progress import Reporter
from selfplay.execution.sharding import LazyItems, Shards, cut, run_shards
from selfplay.execution.signals import StopFlag
from selfplay.run.stages.sample import complete
from selfplay.run.stages.sampling import RESPONSES_PER_CALL, request_size
from selfplay.store.layout import Layout
from selfplay.store.writer import StageInputs, StageWriter

SLOTS, SHARD_SIZE, NUM_RESPONSES, NUM_TOKENS = 256, 64, 8, 500
PROMPTS = 1024
REPLICAS = (1, 64)
GROWTH = (1, 4, 16)
# of the driver, for each response: it feeds 64 engines of 300 responses a second each
BAR = 50.0
TEN_MILLION = 10_000_000
SETTINGS = SamplingSettings(NUM_RESPONSES, 1.0, NUM_TOKENS)
IN_FLIGHT_CALLS = (16, 256, 2048)
CALLS = 3000


class InstantPool(LocalPool):
    """Engines that answer at once, oldest call first: every window is full while there are calls."""

    def __init__(self, num_workers: int) -> None:
        super().__init__(None)
        self._num_workers = num_workers
        self._answers: dict[int, pa.Table] = {}

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        dispatch = Dispatch(calls, self._num_workers, window, concurrent=True)
        held: list[list[Call]] = [[] for _ in range(self._num_workers)]
        while True:
            for worker, mine in enumerate(held):
                while (call := dispatch.next_for(worker)) is not None:
                    mine.append(call)
            if not any(held):
                return
            for worker, mine in enumerate(held):
                if mine:
                    done = mine.pop(0)
                    dispatch.done(worker, done)
                    yield done.key, self._answer(done.args[0])

    def _answer(self, requests: list[SampleRequest]) -> pa.Table:
        num = len(requests) * NUM_RESPONSES
        if num not in self._answers:
            columns = {
                "response_index": pa.array([*range(NUM_RESPONSES)] * len(requests), pa.int64()),
                "seed": pa.array([1] * num, pa.int64()),
                "token_ids": pa.array([[7] * NUM_TOKENS] * num, pa.list_(pa.int32())),
                "num_tokens": pa.array([NUM_TOKENS] * num, pa.int64()),
                "text": pa.array(["word " * NUM_TOKENS] * num),
                "finish_reason": pa.array(["stop"] * num),
            }
            self._answers[num] = pa.table(columns)
        names = [request.prompt_id for request in requests for _ in range(NUM_RESPONSES)]
        return self._answers[num].append_column("prompt_id", [names])


def stage(folder: Path, num_prompts: int, replicas: int) -> float:
    """Microseconds of processor time for a response."""

    def make(start: int, stop: int) -> list[SampleRequest]:
        return [SampleRequest(f"{row:012d}", [1] * 50, row) for row in range(start, stop)]

    context = SimpleNamespace(reporter=Reporter(quiet=True), stop=StopFlag())
    writer = StageWriter(Layout(folder), 1, "sample", StageInputs("f", {}))
    size, window = request_size(SLOTS, NUM_RESPONSES)
    before = time.process_time()
    run_shards(
        context, writer, InstantPool(replicas), "sample", Shards.of(cut(LazyItems(num_prompts, make), SHARD_SIZE)),
        lambda shard: (list(shard), SETTINGS), lambda _, table: complete(table, 1, "", 0),
        title="sample", unit="prompts", size=size, window=window,
    )  # fmt: skip
    return (time.process_time() - before) / num_prompts / NUM_RESPONSES * 1e6


class Echo:
    """A backend that returns a call's rows at once."""

    def __init__(self) -> None:
        self._rows = pa.table(
            {"text": ["word " * NUM_TOKENS] * RESPONSES_PER_CALL, "num_tokens": [NUM_TOKENS] * RESPONSES_PER_CALL}
        )

    def ask(self, key: int) -> pa.Table:
        """The rows of a call."""
        return self._rows


def through_ray(folder: Path, in_flight: int) -> float:
    """Microseconds of processor time for a response of calls through two Ray actors."""
    from selfplay.execution.ray.ray_pool import RayPool

    pool = RayPool(
        name=f"echo-{in_flight}", spec=BackendSpec("benchmarks.driver_cost:Echo", concurrency=64), replicas=2, demand={},
        env={}, log_folder=folder, retries=0, start_timeout=300.0,
    )  # fmt: skip
    for _ in pool.map("ask", (Call(key, (key,)) for key in range(100)), 8):
        pass
    before = time.process_time()
    for _ in pool.map("ask", (Call(key, (key,)) for key in range(CALLS)), in_flight // 2):
        pass
    spent = time.process_time() - before
    pool.close()
    return spent / CALLS / RESPONSES_PER_CALL * 1e6


def measure(given: Given) -> Measured:
    """The cost by number of prompts and of replicas, and what it means for ten million responses."""
    prompts = given.scaled(PROMPTS)
    with given.scratch() as scratch:
        places = iter(range(10**6))

        def run(times: int, replicas: int) -> float:
            return stage(scratch / str(next(places)), prompts * times, replicas)

        run(1, 1)  # what is imported at the first call
        cases = [(times, 1) for times in GROWTH] + [(4, replicas) for replicas in REPLICAS[1:]]
        found = alternate({f"{case}": (lambda case=case: run(*case)) for case in cases}, given.num_runs)  # type: ignore[misc]
        figures = [
            median_of(
                f"driver, us a response: {times} x {prompts} prompts, {replicas} replicas", found[f"{(times, replicas)}"],
                "us", f"{NUM_RESPONSES} responses of {NUM_TOKENS} tokens a prompt", bar=BAR, clock="processor",
            )
            for times, replicas in cases
        ]  # fmt: skip
        figures.append(
            Figure(
                "driver, hours for 10 M responses", figures[-1].value * TEN_MILLION / 1e6 / 3600, "h",
                "*sample*, one core of the driver", clock="processor",
            )
        )  # fmt: skip
        figures += _through_ray(scratch, given)
    return Measured(figures, {"slots": SLOTS, "shard_size": SHARD_SIZE})


def _through_ray(folder: Path, given: Given) -> list[Figure]:
    from selfplay.config.running import ClusterConfig
    from selfplay.execution.ray.ray_cluster import RayCluster

    with RayCluster(ClusterConfig(), folder):
        runs = {f"{number}": (lambda number=number: through_ray(folder, number)) for number in IN_FLIGHT_CALLS}
        found = alternate(runs, given.num_runs)
    work = f"{CALLS} calls of {RESPONSES_PER_CALL} responses"
    return [
        median_of(
            f"Ray in the driver, us a response: {name} calls in flight", values, "us", work, bar=BAR, clock="processor"
        )
        for name, values in found.items()
    ]
