"""A reward model by two engines: one is loaded at a time, and what vLLM cannot compute has a reason. On fakes of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from selfplay.backends import reward_engines as module
from selfplay.backends.reward_engines import NUM_COMPARED, RewardEngines
from selfplay.backends.reward_rows import Rows
from selfplay.core.protocols import ScoreItem
from selfplay.core.score_table import finite, score_table


class FakeRows:
    max_length = 512

    def render(self, item: ScoreItem) -> tuple[list[int], str | None]:
        return ([], "empty") if not item.response else (list(item.response.encode()), None)

    def score(self, items: Sequence[ScoreItem], rewards: Any) -> pa.Table:
        rendered = [self.render(item) for item in items]
        rows = [ids for ids, reason in rendered if reason is None]
        found = iter(rewards(Rows(rows, [()] * len(rows))) if rows else [])
        return score_table(items, [(None, reason) if reason else finite(next(found)) for _, reason in rendered])


class Loaded:
    """What is in memory, and what was computed by which."""

    now: list[str] = []
    calls: list[tuple[str, int]] = []

    def __init__(self, name: str) -> None:
        self.name = name
        assert not Loaded.now, f"{Loaded.now} is in memory when {name} is loaded"
        Loaded.now.append(name)

    def of(self, rows: Sequence[Sequence[int]]) -> list[float]:
        assert Loaded.now == [self.name]
        Loaded.calls.append((self.name, len(rows)))
        return [float(sum(row)) for row in rows]


class FakeModel(Loaded):
    folder, batch_tokens, pad_token_id, weight_bytes = "/models/reward", 2048, None, 1000
    rows = FakeRows()

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__("transformers")

    def __del__(self) -> None:
        Loaded.now.remove("transformers")

    def rewards(self, rows: Rows) -> list[float]:
        return self.of(rows.token_ids)


class FakeEngine(Loaded):
    """NaN for a row with a "!", as of a model with a token without a number."""

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__("vllm")

    def close(self) -> None:
        Loaded.now.remove("vllm")

    def rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        return [math.nan if 33 in row else value for row, value in zip(rows, self.of(rows), strict=True)]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> RewardEngines:
    Loaded.now, Loaded.calls = [], []
    monkeypatch.setattr(module, "RewardModel", FakeModel)
    monkeypatch.setattr(module, "PoolingEngine", FakeEngine)
    monkeypatch.setattr(module, "pooling_problem", lambda folder, trust_remote_code: "")
    return RewardEngines("/models/reward")


def items(*responses: str) -> list[ScoreItem]:
    return [ScoreItem(f"r{i}", [], text) for i, text in enumerate(responses)]


def test_a_few_are_compared_and_one_is_in_memory(engines: RewardEngines) -> None:
    asked = items("", *(f"text {i}" for i in range(40)))
    found = engines.compare(asked)
    assert found["response_id"].to_pylist() == [item.response_id for item in asked]
    assert found["reward"].equals(found["engine_reward"]) and found["problem"].null_count == len(asked)
    chosen = [place for place, reward in enumerate(found["reward"].to_pylist()) if reward is not None]
    assert len(chosen) == NUM_COMPARED and (chosen[0], chosen[-1]) == (1, 40)
    assert Loaded.calls == [("transformers", NUM_COMPARED), ("vllm", NUM_COMPARED)]
    assert engines.score(asked, "vllm").equals(engines.score(asked))
    assert Loaded.calls[2:] == [("vllm", 40), ("transformers", 40)]
    # a worker that was replaced is asked for vLLM at once
    assert engines.compare(items(""))["reward"].to_pylist() == [None]


def test_why_vllm_has_none(engines: RewardEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, rows: Any) -> Any:
        raise ValueError("no memory\nis left")

    monkeypatch.setattr(FakeEngine, "rewards", fails)
    found = engines.compare(items("a", "b")).to_pylist()
    assert {row["problem"] for row in found} == {"ValueError: no memory is left"}
    assert all(row["reward"] is not None and row["engine_reward"] is None for row in found)
    assert engines.score(items("a"))["reward"].to_pylist() == [97.0]
    monkeypatch.setattr(module, "pooling_problem", lambda folder, trust_remote_code: "T5 is not supported")
    assert engines.compare(items("a"))["problem"].to_pylist() == ["T5 is not supported"]


def test_rewards_that_are_not_finite_are_computed_again_without_a_cache(engines: RewardEngines) -> None:
    found = engines.score(items("a", "b!", "c"), "vllm")
    assert found["reward"].to_pylist() == [97.0, 131.0, 99.0]
    assert Loaded.calls == [("vllm", 3), ("transformers", 1)] and Loaded.now == ["transformers"]
    assert engines.score(items("d"), "vllm")["reward"].to_pylist() == [100.0] and Loaded.now == ["vllm"]
