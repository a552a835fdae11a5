"""The thread of an engine, with a stand-in for the engine: no call waits for ever when something fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from selfplay.backends.vllm.engine_stream import EngineStream
from selfplay.core.errors import WorkerLostError


class Engine:
    """Ends one request in each step. `fails_at`: the request that is refused when it is added."""

    def __init__(self, fails_at: int = -1, step_fails: bool = False) -> None:
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=4))
        self.model_config = SimpleNamespace(max_model_len=8)
        self.fails_at, self.step_fails = fails_at, step_fails
        self.running: list[str] = []

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        if int(request_id) == self.fails_at:
            raise ValueError("refused")
        self.running.append(request_id)

    def step(self) -> list[Any]:
        if self.step_fails:
            raise RuntimeError("device lost")
        return [SimpleNamespace(request_id=self.running.pop(0))]


def requests(num: int) -> list[Any]:
    return [([1], None)] * num


def test_outputs_are_those_of_the_requests_in_their_order() -> None:
    engine = Engine()
    stream = EngineStream(lambda: engine, lambda: None)  # type: ignore[arg-type, return-value]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda num: stream.generate(requests(num)), (5, 0, 7)))
    assert [len(outputs) for outputs in found] == [5, 0, 7]
    assert all(outputs == sorted(outputs, key=lambda output: int(output.request_id)) for outputs in found)
    assert stream.take_use().num_steps == 12


@pytest.mark.parametrize("fails_at", [0, 3, 6])
@pytest.mark.parametrize("clean_up_fails", [False, True])
def test_every_call_ends_when_a_request_or_a_step_fails(fails_at: int, clean_up_fails: bool) -> None:
    def clean_up() -> None:
        if clean_up_fails:
            raise RuntimeError("device lost")

    for engine in (Engine(fails_at), Engine(step_fails=True)):
        stream = EngineStream(lambda engine=engine: engine, clean_up)  # type: ignore[misc]
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(stream.generate, requests(2)) for _ in range(4)]
            errors = [call.exception(timeout=120) for call in calls]
        assert any(isinstance(error, WorkerLostError) for error in errors)
        assert {type(error) for error in errors} <= {WorkerLostError, type(None)}
