"""Runs requests through one vLLM engine without a pause: calls of several threads share its batch.

vLLM's engine is not thread-safe, and on a CPU its threads are bound to the thread that built it. So everything that touches it
runs on one thread of its own, which steps as long as any call has requests. A call that waits for its last, longest response does
not empty the batch: the requests of the next calls fill the free slots.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from selfplay.core.errors import WorkerLostError
from selfplay.core.heartbeat import beat

if TYPE_CHECKING:
    from vllm import PoolingParams, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

T = TypeVar("T")
# prompt token ids and what is wanted of them: one sequence, or what a pooling model gives
Request = tuple[list[int], "SamplingParams | PoolingParams"]


@dataclass(slots=True)
class _Batch:
    """The requests of one call: outputs by position, and how many are missing."""

    requests: Sequence[Request]
    outputs: list[Any]
    missing: int
    done: Future[list[Any]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class EngineUse:
    """How full the engine was: steps in all, those in which less than half of its slots had a request, and the mean share of
    slots that had one."""

    num_steps: int
    num_half_empty_steps: int
    mean_occupancy: float


class EngineStream:
    """The thread of one engine. `engine` returns the engine, `max_num_seqs` its slots; `on_failure` is called on the engine's
    thread when a step fails, which leaves requests behind in an engine of unknown state."""

    def __init__(self, engine: Callable[[], LLMEngine], on_failure: Callable[[], None]) -> None:
        self._engine, self._on_failure = engine, on_failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm-engine")
        self._lock = threading.Lock()
        self._waiting: deque[tuple[_Batch, int]] = deque()
        self._is_stepping = False
        self._numbers = itertools.count()
        self._steps = self._half_empty = self._occupied = self._slots = 0

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on the engine's thread and return its result."""
        return self._thread.submit(function, *args).result()

    def generate(self, requests: Sequence[Request]) -> list[Any]:
        """The final output of each request (a RequestOutput or PoolingRequestOutput of vLLM), in their order. Any thread but the
        engine's may call it, several at a time. Raises WorkerLostError when the engine fails."""
        batch = self._put(requests)
        with self._lock:
            if not self._is_stepping and batch.missing:
                self._is_stepping = True
                self._thread.submit(self._step_until_empty)
        return batch.done.result()

    def generate_here(self, requests: Sequence[Request]) -> list[Any]:
        """As `generate`, on the engine's own thread, while no other call has requests."""
        batch = self._put(requests)
        self._step_until_empty()
        return batch.done.result()

    def take_use(self) -> EngineUse:
        """How full the engine was since the last call of this method."""
        with self._lock:
            found = EngineUse(self._steps, self._half_empty, self._occupied / self._slots if self._slots else 0.0)
            self._steps = self._half_empty = self._occupied = self._slots = 0
        return found

    def _put(self, requests: Sequence[Request]) -> _Batch:
        batch = _Batch(requests, [None] * len(requests), len(requests))
        if not requests:
            batch.done.set_result([])
        with self._lock:
            self._waiting.extend((batch, position) for position in range(len(requests)))
        return batch

    def _step_until_empty(self) -> None:
        running: dict[str, tuple[_Batch, int]] = {}
        failure: str | None = None
        try:
            self._step(running)
        except Exception as error:  # a step of vLLM raises many kinds of exceptions
            failure = f"vLLM failed in a step: {type(error).__name__}: {error}"
        if failure is None:
            return
        try:
            # outside of the except clause: the exception's traceback would keep the engine alive
            self._on_failure()
        finally:
            with self._lock:
                lost = {id(batch): batch for batch, _ in (*running.values(), *self._waiting)}
                self._waiting.clear()
                self._is_stepping = False
            for batch in lost.values():
                batch.done.set_exception(WorkerLostError(failure))

    def _step(self, running: dict[str, tuple[_Batch, int]]) -> None:
        engine = self._engine()
        slots = int(engine.vllm_config.scheduler_config.max_num_seqs)
        window = 2 * slots  # enough that the engine never waits for this loop; what it holds stays bounded
        # Between two finished sequences there are at most as many steps as the longest takes; more are no progress.
        patience = 4 * int(engine.model_config.max_model_len) + 1000
        idle_steps = 0
        while True:
            with self._lock:
                taken = [self._waiting.popleft() for _ in range(min(window - len(running), len(self._waiting)))]
                if not taken and not running:
                    self._is_stepping = False
                    return
            begun = {str(next(self._numbers)): request for request in taken}
            running |= begun
            for request_id, (batch, position) in begun.items():
                token_ids, params = batch.requests[position]
                engine.add_request(request_id, {"prompt_token_ids": token_ids}, params)
            self._count(min(len(running), slots), slots)
            finished = engine.step()
            idle_steps = 0 if finished else idle_steps + 1
            if idle_steps < patience:
                beat()
            for output in finished:
                batch, position = running.pop(output.request_id)
                batch.outputs[position] = output
                batch.missing -= 1
                if not batch.missing:
                    batch.done.set_result(batch.outputs)

    def _count(self, busy: int, slots: int) -> None:
        self._steps += 1
        self._half_empty += 2 * busy < slots
        self._occupied += busy
        self._slots += slots
