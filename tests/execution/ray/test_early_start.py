"""An early start that is given up leaves nothing; one that is not possible is no error before the checks have passed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from selfplay.config.running import ClusterConfig
from selfplay.core import limits
from selfplay.core.errors import ResourceError
from selfplay.core.pool import BackendSpec
from selfplay.execution.ray import local_ray
from selfplay.execution.ray.early_start import EarlyStart
from selfplay.execution.ray.local_ray import LocalRay
from selfplay.execution.ray.ray_cluster import RayCluster

ENGINE = BackendSpec("tests.helpers.pool_backends:Counter", preload="tests.helpers.pool_backends:set_marker")


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Callable[[], None]]:
    """Ray's private folder is made in `tmp_path`; ray.init calls these functions and starts nothing."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(limits, "LONGEST_TEMP", 1000)
    calls: list[Callable[[], None]] = []
    monkeypatch.setattr(ray, "init", lambda **_: [call() for call in calls])
    monkeypatch.setattr(EarlyStart, "_start_workers", lambda self: None)
    return calls


def test_a_start_that_is_given_up_ends_before_it_returns(inits: list[Callable[[], None]], tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()
    order: list[str] = []
    inits += [begun.set, lambda: order.append("init ends" if released.wait(20) else "late")]
    with EarlyStart(ClusterConfig(), "sampler", ENGINE):
        assert begun.wait(20)
        assert len([*tmp_path.iterdir()]) == 1, "its private folder"
        threading.Timer(0.2, released.set).start()
    order.append("ended")
    assert order == ["init ends", "ended"]
    assert [*tmp_path.iterdir()] == []
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_ctrl_c_waits_for_no_start(inits: list[Callable[[], None]], tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()
    inits += [begun.set, lambda: [released.wait(20)].clear()]
    with pytest.raises(KeyboardInterrupt), EarlyStart(ClusterConfig(), "sampler", ENGINE):
        assert begun.wait(20)
        raise KeyboardInterrupt
    assert not released.is_set()
    assert [*tmp_path.iterdir()] == []
    released.set()


def test_what_makes_it_impossible_is_said_after_the_checks(
    inits: list[Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ResourceError("no loopback")

    monkeypatch.setattr(local_ray, "check_loopback", refuse)
    with EarlyStart(ClusterConfig(), "sampler", ENGINE):
        pass
    early = EarlyStart(ClusterConfig(), "sampler", ENGINE)
    with pytest.raises(ResourceError, match="no loopback"):
        RayCluster(ClusterConfig(), tmp_path, early=early).__enter__()
    assert [*tmp_path.iterdir()] == []


def test_an_error_of_the_workers_start_is_that_of_the_start(inits: list[Callable[[], None]], tmp_path: Path) -> None:
    def fail() -> None:
        raise ResourceError("no room for a worker")

    with pytest.raises(ResourceError, match="no room for a worker"):
        LocalRay(fail).start()
    assert [*tmp_path.iterdir()] == []


def test_workers_are_no_more_than_processors_and_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Worker:
        class prepare:
            remote = made.append

    monkeypatch.setattr(LocalRay, "begin", lambda self: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("selfplay.execution.ray.early_start.new_worker", lambda *_: Worker)
    early = EarlyStart(ClusterConfig.model_validate({"sampler": {"replicas": 1000}}), "sampler", ENGINE)
    early._start_workers()
    assert made == [ENGINE.preload] * 2
    assert early.take("scorer") == []
    assert len(early.take("sampler")) == 2
    assert early.take("sampler") == []
