"""Benchmark `orchestration`: how much longer *sample* takes than a schedule without any gap, and a round than its sampling.

The real quarantine, dispatch and settings of the stage drive simulated engines in virtual time: an engine has 256 slots, a step
takes one unit of time, a response of L tokens holds a slot for L steps, and the engine starts its requests in the order in which
it got them. Lengths are log-normal, cut at 2,048 tokens. The ideal is one queue of all responses before all slots of all engines.
No clock is read, so the load of the machine changes no figure. A stage that works side by side begins with each shard when it
is written. The model's log-probs are computed of as many responses as are scored; the engine's own cost nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.figures import Figure, Given, Measured
from benchmarks.local_pool import LocalPool
from selfplay.core.pool import IN_FLIGHT, Call
from selfplay.execution.dispatch import Dispatch
from selfplay.execution.quarantine import run_with_quarantine
from selfplay.execution.sharding import cut
from selfplay.run.stages.sampling import request_size

SLOTS, SHARD_SIZE, NUM_RESPONSES, MAX_TOKENS, SIGMA = 256, 64, 8, 2048, 1.0
REPLICAS = (1, 2, 4, 64)
MEANS = (350, 600, 900)
PROMPTS_PER_REPLICA = 512
GROWTH = (4, 16)
BAR = 1.05
ROUND_BAR = 1.15


class Engine:
    """One simulated engine: requests that wait, and slots by the time at which they become free."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int]] = deque()
        self.running: list[tuple[float, int]] = []
        self.missing: dict[int, int] = {}

    def send(self, now: float, key: int, lengths: Iterable[int]) -> None:
        lengths = list(lengths)
        self.missing[key] = len(lengths)
        self.waiting.extend((key, length) for length in lengths)
        self.start(now)

    def start(self, now: float) -> None:
        while self.waiting and len(self.running) < SLOTS:
            key, length = self.waiting.popleft()
            heapq.heappush(self.running, (now + length, key))

    def step(self) -> tuple[float, int | None]:
        """The time at which the next response ends, and its call if that was the last of it."""
        now, key = heapq.heappop(self.running)
        self.start(now)
        self.missing[key] -= 1
        if self.missing[key]:
            return now, None
        del self.missing[key]
        return now, key


class SimulatedPool(LocalPool):
    """Engines in virtual time. `serial`: a call begins when the one before it has ended, as calls of a whole shard do."""

    def __init__(self, num_workers: int, *, serial: bool) -> None:
        super().__init__(None)
        self.num_workers, self.serial = num_workers, serial
        self.now = 0.0

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        dispatch = Dispatch(calls, self.num_workers, window, concurrent=not self.serial)
        engines = [Engine() for _ in range(self.num_workers)]
        held: dict[int, Call] = {}
        next_in_line: list[deque[Call]] = [deque() for _ in engines]

        def fill(worker: int) -> bool:
            call = dispatch.next_for(worker)
            if call is None:
                return False
            held[call.key] = call
            if self.serial and engines[worker].missing:
                next_in_line[worker].append(call)
            else:
                engines[worker].send(self.now, call.key, call.args[0])
            return True

        for _ in range(window):
            for worker in range(self.num_workers):
                fill(worker)
        ends = [(engine.running[0][0], worker) for worker, engine in enumerate(engines) if engine.running]
        heapq.heapify(ends)
        while ends:
            _, worker = heapq.heappop(ends)
            engine = engines[worker]
            self.now, key = engine.step()
            if key is not None:
                dispatch.done(worker, held[key])
                if next_in_line[worker]:
                    following = next_in_line[worker].popleft()
                    engine.send(self.now, following.key, following.args[0])
                yield key, pa.table({"num_tokens": held.pop(key).args[0]})
                while fill(worker):
                    pass
            if engine.running:
                heapq.heappush(ends, (engine.running[0][0], worker))


def lengths(num: int, mean: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of `num` responses: log-normal, cut, with this mean after the cut."""
    normal = np.random.default_rng(0).standard_normal(num)
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        found = np.clip(np.exp(middle + SIGMA * normal), 1, MAX_TOKENS)
        low, high = (middle, high) if found.mean() < mean else (low, middle)
    return found.astype(np.int64)


def ideal(tokens: Sequence[int], num_slots: int) -> float:
    """When the last response ends if every free slot takes the next one at once."""
    slots = [0.0] * num_slots
    for length in tokens:
        heapq.heapreplace(slots, slots[0] + length)
    return max(slots)


def schedule(
    tokens: np.ndarray[Any, np.dtype[np.int64]], replicas: int, *, whole_shards: bool = False
) -> list[tuple[float, int, int]]:
    """When each shard is written, with its index and its number of responses: with the stage's own requests and windows, or with
    a whole shard a call, one after the other."""
    prompts = [row.tolist() for row in tokens.reshape(-1, NUM_RESPONSES)]
    pool = SimulatedPool(replicas, serial=whole_shards)
    size, window = (None, IN_FLIGHT) if whole_shards else request_size(SLOTS, NUM_RESPONSES)
    results = run_with_quarantine(
        pool, "sample", enumerate(cut(prompts, SHARD_SIZE)),
        lambda items: ([length for item in items for length in item],), None, lambda line: None, "sample",
        size=size, window=window,
    )  # fmt: skip
    return [(pool.now, index, result.table.num_rows) for index, result in results]


class Follower(LocalPool):
    """One simulated worker of a later stage, on a device of its own: a call of R responses takes R times `cost`. Where the stage
    before it has no further shard yet, it waits until `next_at`."""

    def __init__(self, cost: float) -> None:
        super().__init__(None)
        self.cost, self.now, self.next_at = cost, 0.0, 0.0

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        dispatch = Dispatch(calls, 1, window, concurrent=False)
        held: deque[Call] = deque()
        while True:
            while (call := dispatch.next_for(0)) is not None:
                held.append(call)
            if held:
                done = held.popleft()
                self.now += self.cost * len(done.args[0])
                dispatch.done(0, done)
                yield done.key, pa.table({"reward": done.args[0]})
            elif dispatch.has_more:
                self.now = max(self.now, self.next_at)
            else:
                return


def followed(shards: list[tuple[float, int, int]], cost: float) -> list[tuple[float, int, int]]:
    """When a stage that reads these shards one by one has written each of its own."""
    pool = Follower(cost)

    def available() -> Iterator[tuple[int, Sequence[float]] | None]:
        for time, index, num_rows in sorted(shards):
            while time > pool.now:
                pool.next_at = time
                yield None
            yield index, [0.0] * num_rows

    results = run_with_quarantine(pool, "score", available(), lambda items: (items,), None, lambda line: None, "score")
    return [(pool.now, index, result.table.num_rows) for index, result in results]


def measure(given: Given) -> Measured:
    """How the stage's schedule compares with the ideal one, and a round with stages side by side with its sampling; the schedule
    of whole shards is in the details."""
    figures, whole_shards = [], {}
    prompts = given.scaled(PROMPTS_PER_REPLICA)
    sizes = [(replicas, mean, 1) for replicas in REPLICAS for mean in (MEANS if replicas == 1 else (600,))]
    for replicas, mean, times in [*sizes, *((1, 600, times) for times in GROWTH)]:
        tokens = lengths(prompts * times * replicas * NUM_RESPONSES, mean)
        best = ideal(tokens.tolist(), SLOTS * replicas)
        name = f"sample over ideal: {replicas} replicas, mean {mean}" + (
            f", {times} times the prompts" if times > 1 else ""
        )
        work = f"{len(tokens):,} responses, {SLOTS} slots"
        shards = schedule(tokens, replicas)
        end = max(time for time, *_ in shards)
        figures.append(Figure(name, end / best, "ratio", work, BAR, clock="virtual"))
        if times == 1:
            whole_shards[name] = round(max(schedule(tokens, replicas, whole_shards=True))[0] / best, 3)
        if (replicas, mean) == (1, 600):
            # one device scores in half of the time of the sampling, one computes log-probs in .3 of it
            scored = followed(shards, 0.5 * end / len(tokens))
            name = f"round over sampling, {times} times the prompts" if times > 1 else "round over sampling"
            by_engine = max(scored)[0] / end
            figures.append(
                Figure(f"{name}: log-probs of the engine", by_engine, "ratio", work, ROUND_BAR, clock="virtual")
            )
            by_model = max(followed(scored, 0.3 * end / len(tokens)))[0] / end
            figures.append(
                Figure(f"{name}: log-probs of the model", by_model, "ratio", work, ROUND_BAR, clock="virtual")
            )
    return Measured(figures, {"slots": SLOTS, "shard_size": SHARD_SIZE, "one_call_for_a_shard": whole_shards})
