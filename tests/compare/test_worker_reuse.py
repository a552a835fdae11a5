"""Warm workers on a fake cluster: what stays, what is made anew, what is closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.compare.worker_reuse import WarmWorkers
from selfplay.config.load import load_config
from selfplay.config.schema import Config
from selfplay.core.pool import BackendSpec
from selfplay.inputs.resolve import Inputs, resolve

WriteConfig = Callable[..., Path]


class FakePool:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def replace_dead(self) -> None:
        self.log.append(f"replace_dead {self.name}")

    def close(self) -> None:
        self.log.append(f"close {self.name}")


class FakeCluster:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def check_resources(self) -> None:
        self.log.append("cluster")

    def own_devices(self) -> frozenset[str]:
        return frozenset(["sampler", "scorer"])

    def pool(self, role: str, spec: BackendSpec, *, name: str = "", reserves: bool = True) -> Any:
        assert reserves is (name != "gold")
        return FakePool(name or role, self.log)


class Warm(WarmWorkers):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log: list[str] = []

    def _enter_cluster(self, config: Config) -> FakeCluster:
        self._stack.callback(lambda: self.log.append("shutdown"))
        return FakeCluster(self.log)


@pytest.fixture
def made(write_config: WriteConfig, tmp_path: Path) -> tuple[Config, Inputs]:
    (tmp_path / "my_gold.py").write_text("def gold(prompt, response):\n    return 1.0\n")
    config = load_config(write_config(evaluation={"gold": "my_gold.py:gold"}))
    return config, resolve(config, tmp_path)


ALL = ["sampler", "logprobs", "trainer", "scorer", "gold"]


def test_equal_workers_stay_and_are_healed(made: tuple[Config, Inputs], tmp_path: Path) -> None:
    config, inputs = made
    with Warm(tmp_path / "workers") as warm:
        with warm(config, inputs, tmp_path) as first:
            assert first.own_devices == {"sampler", "scorer"}
        assert warm.log == ["cluster", *(f"start {name}" for name in ALL)]
        warm.log.clear()
        # another arm and another seed: the engine's own seed makes no difference
        other = config.model_copy(update={"seed": 7, "selection": config.selection.model_copy(update={"keep": 0.25})})
        with warm(other, inputs, tmp_path) as second:
            assert second == first
        assert warm.log == [f"replace_dead {name}" for name in ALL]
        warm.log.clear()
    assert warm.log == ["shutdown"]


def test_what_differs_is_closed_and_made_anew(made: tuple[Config, Inputs], tmp_path: Path) -> None:
    config, inputs = made
    with Warm(tmp_path / "workers") as warm:
        with warm(config, inputs, tmp_path) as first:
            pass
        warm.log.clear()
        other = config.model_copy(
            update={"reward": config.reward.model_copy(update={"max_length": 99}), "evaluation": None}
        )
        with warm(other, inputs, tmp_path) as second:
            assert second.gold is None
            assert second.scorer is not first.scorer
            assert second.sampler is first.sampler
        closed = [line for line in warm.log if not line.startswith("replace_dead")]
        assert closed == ["close scorer", "close gold", "start scorer"]


def test_another_cluster_is_another_cluster(made: tuple[Config, Inputs], tmp_path: Path) -> None:
    config, inputs = made
    with Warm(tmp_path / "workers") as warm:
        with warm(config, inputs, tmp_path):
            pass
        warm.log.clear()
        other = config.model_copy(update={"cluster": config.cluster.model_copy(update={"retries": 9})})
        with warm(other, inputs, tmp_path):
            pass
        assert warm.log[:2] == ["shutdown", "cluster"]


def test_nothing_starts_before_a_run_asks(tmp_path: Path) -> None:
    with Warm(tmp_path / "workers") as warm:
        pass
    assert warm.log == []
    assert not (tmp_path / "workers").exists()
