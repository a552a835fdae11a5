"""Benchmark `orchestration`: how much longer *sample* takes than a schedule without any gap.

The real quarantine, dispatch and settings of the stage drive simulated engines in virtual time: an engine has 256 slots, a step
takes one unit of time, a response of L tokens holds a slot for L steps, and the engine starts its requests in the order in which
it got them. Lengths are log-normal, cut at 2,048 tokens. The ideal is one queue of all responses before all slots of all engines.
No clock is read, so the machine's load does not change the figures.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.figures import Figure, Given, Measured
from selfplay.core.pool import IN_FLIGHT, Call, LocalPool
from selfplay.execution.dispatch import Dispatch
from selfplay.execution.quarantine import run_with_quarantine
from selfplay.execution.sharding import cut
from selfplay.run.stages.sampling import request_size

SLOTS, SHARD_SIZE, NUM_RESPONSES, MAX_TOKENS, SIGMA = 256, 64, 8, 2048, 1.0
REPLICAS = (1, 2, 4, 64)
MEANS = (350, 600, 900)
PROMPTS_PER_REPLICA = 512
BAR = 1.05


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

    def map(self, method: str, calls: Iterable[Call], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
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


def spent(tokens: np.ndarray[Any, np.dtype[np.int64]], replicas: int, *, whole_shards: bool) -> float:
    """The same with the stage's own requests and windows; or with a whole shard a call, one after the other."""
    prompts = [row.tolist() for row in tokens.reshape(-1, NUM_RESPONSES)]
    pool = SimulatedPool(replicas, serial=whole_shards)
    size, window = (None, IN_FLIGHT) if whole_shards else request_size(SLOTS, NUM_RESPONSES)
    for _ in run_with_quarantine(
        pool, "sample", enumerate(cut(prompts, SHARD_SIZE)),
        lambda items: ([length for item in items for length in item],), None, lambda line: None, "sample",
        size=size, window=window,
    ):  # fmt: skip
        pass
    return pool.now


def measure(given: Given) -> Measured:
    """How the stage's schedule compares with the ideal one; the schedule of whole shards is in the details."""
    figures, whole_shards = [], {}
    prompts = given.scaled(PROMPTS_PER_REPLICA)
    for replicas in REPLICAS:
        for mean in MEANS if replicas == 1 else (600,):
            tokens = lengths(prompts * replicas * NUM_RESPONSES, mean)
            best = ideal(tokens.tolist(), SLOTS * replicas)
            name = f"sample over ideal: {replicas} replicas, mean {mean}"
            ratio = spent(tokens, replicas, whole_shards=False) / best
            figures.append(
                Figure(name, ratio, "ratio", f"{len(tokens):,} responses, {SLOTS} slots", BAR, clock="virtual")
            )
            whole_shards[name] = round(spent(tokens, replicas, whole_shards=True) / best, 3)
    return Measured(figures, {"slots": SLOTS, "shard_size": SHARD_SIZE, "one_call_for_a_shard": whole_shards})
