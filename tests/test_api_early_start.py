"""What a run is sure to need starts beside its checks, and ends where a check fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfplay
from selfplay.cli.main import main
from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError, DataError, DriftError
from selfplay.core.pool import Workers
from selfplay.execution.progress import Reporter
from selfplay.inputs.resolve import Inputs
from selfplay.run import driver, fork
from selfplay.run.worker_specs import MakeWorkers, early_ray_workers, ray_workers
from tests.helpers.fakes import Fakes

QUIET = Reporter(quiet=True)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, in order: the early start is a fake that yields fakes."""
    seen: list[str] = []

    @contextlib.contextmanager
    def make(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        seen.append("workers")
        with Fakes()(config, inputs, folder) as workers:
            yield workers

    @contextlib.contextmanager
    def early(config: Config) -> Iterator[MakeWorkers]:
        seen.append("begin")
        try:
            yield make
        finally:
            seen.append("end")

    preflight = driver.preflight

    def checked(*args: Any, **kwargs: Any) -> driver.Prepared:
        seen.append("checks")
        return preflight(*args, **kwargs)

    monkeypatch.setattr(driver, "early_ray_workers", early)
    for module in (driver, fork):
        monkeypatch.setattr(module, "preflight", checked)
    return seen


def test_the_early_start_is_around_checks_and_run(
    write_config: Callable[..., Path], tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the plan is told what was free before the workers took some of it
    monkeypatch.setattr("selfplay.run.plan.this_device", None)
    order = ["begin", "checks", "workers", "end"]
    run = selfplay.start(write_config(rounds=1), run_dir=tmp_path / "run", reporter=QUIET)
    assert events == order
    events.clear()
    selfplay.resume(tmp_path / "run", reporter=QUIET)
    assert events == ["checks"], "nothing is left to do"
    events.clear()
    selfplay.resume(tmp_path / "run", rounds=2, reporter=QUIET)
    assert events == order
    events.clear()
    selfplay.fork(tmp_path / "run", from_round=1, reporter=QUIET, **{"selection.metric": "random"})
    assert events == order
    assert run.store.rounds() == [0, 1, 2]


def test_a_check_that_fails_ends_it_and_nothing_is_written(
    write_config: Callable[..., Path], tmp_path: Path, events: list[str]
) -> None:
    config = write_config(rounds=1)
    document = yaml.safe_load(config.read_text())
    lacking = tmp_path / "lacking.jsonl"
    lacking.write_text('{"other": "column"}\n')
    document["prompts"]["source"] = str(lacking)
    with pytest.raises(DataError):
        selfplay.start(document, run_dir=tmp_path / "run", reporter=QUIET)
    assert events == ["begin", "checks", "end"]
    assert not (tmp_path / "run").exists()
    events.clear()
    with pytest.raises(ConfigError):  # before anything is begun
        selfplay.start(document, run_dir=tmp_path / "run", overrides=["rounds=many"], reporter=QUIET)
    assert events == []


def test_a_run_that_may_not_go_on_makes_no_workers(
    write_config: Callable[..., Path], tmp_path: Path, events: list[str]
) -> None:
    selfplay.start(write_config(rounds=1), run_dir=tmp_path / "run", reporter=QUIET)
    before = [*(tmp_path / "run/attempts").iterdir()]
    events.clear()
    with pytest.raises(DriftError):
        selfplay.resume(tmp_path / "run", reporter=QUIET, rounds=2, seed=5)
    assert events == ["begin", "end"]
    assert [*(tmp_path / "run/attempts").iterdir()] == before


def test_a_dry_run_starts_nothing(
    write_config: Callable[..., Path], tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["selfplay", "run", str(write_config()), "--dry-run", "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as done:
        main()
    assert (done.value.code, events) == (None, ["checks"])
    assert not (tmp_path / "run").exists()


def test_a_cluster_is_joined_after_the_checks() -> None:
    document = {
        "policy": {"model": "policy"},
        "prompts": {"source": "prompts.jsonl", "column": "prompt", "per_round": 1},
        "sampling": {"num_responses": 2, "max_tokens": 8},
        "reward": {"model": "reward"},
        "selection": {"keep": 1.0},
        "training": {"beta": 0.1, "learning_rate": 1e-6, "batch_size": 1},
        "cluster": {"address": "127.0.0.1:6379"},
        "rounds": 1,
    }
    with early_ray_workers(Config.model_validate(document)) as make:
        assert make is ray_workers
