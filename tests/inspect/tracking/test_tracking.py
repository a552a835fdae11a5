"""What trackers are sent: numbers of steps and rounds, texts only where asked for, and never the end of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfplay.api import preflight, standard_observers
from selfplay.config.load import load_config
from selfplay.config.running import TrackingConfig
from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import SelectOutcome, TrainOutcome
from selfplay.core.protocols import StepMetrics
from selfplay.execution.progress import Reporter
from selfplay.inspect.tracking import trackers
from selfplay.inspect.tracking.tracking import Tracking, open_trackers
from selfplay.run import driver
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.make_run import make_run

SECRET = "a text that only --log-text sends"


def events(folder: Path) -> list[tuple[int, Any]]:
    """(step, value) of every summary that TensorBoard reads in a folder."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        (event.step, value)
        for path in sorted(folder.rglob("events.out.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, value in events(folder):
        if value.metadata.plugin_data.plugin_name == "scalars":
            found.setdefault(value.tag, []).append((step, value.tensor.float_val[0]))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_run(tmp_path / "run", rounds=2, text=SECRET)


def test_steps_count_on_over_rounds_and_rounds_have_their_row(store: Store, tmp_path: Path) -> None:
    found = open_trackers(TrackingConfig(to=["tensorboard"]), store, tmp_path, pytest.fail)
    for number in (1, 2):
        for step in (1, 2):
            found.on_step(number, StepMetrics(step, 2, 0.5 / step, 1e-4, float("nan"), 0.5, 0.1))
        found.on_round(number)
    found.on_close()
    read = scalars(tmp_path)
    # the made rounds say 12 optimizer steps each
    assert read["train/loss"] == [(1, 0.5), (2, 0.25), (13, 0.5), (14, 0.25)]
    assert "train/grad_norm" not in read and "train/step" not in read
    assert [step for step, _ in read["round/eval_gold_mean"]] == [1, 2]
    assert read["round/num_kept"][0][1] == store.outcome(1, SelectOutcome).to_json()["num_kept"]
    assert "round/seconds_train" in read
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("events.out.*"))
    assert SECRET.encode() not in raw and b"answer" not in raw


def test_texts_where_they_are_asked_for(store: Store, tmp_path: Path) -> None:
    found = open_trackers(TrackingConfig(to=["tensorboard"], log_text=True), store, tmp_path, pytest.fail)
    found.on_round(0)
    found.on_round(1)
    found.on_close()
    texts = [(step, value) for step, value in events(tmp_path) if value.metadata.plugin_data.plugin_name == "text"]
    assert [step for step, _ in texts] == [1]
    text = texts[0][1].tensor.string_val[0].decode()
    best = store.table(1, "select")["chosen"][0].as_py()[0]["content"]
    assert best in text and "[user] " in text and "reward" in text


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.calls += 1
        raise ConnectionError("the service is down")

    def text(self, name: str, step: int, text: str) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


class Noting(Failing):
    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.calls += 1

    def close(self) -> None:
        self.calls += 100


def test_a_tracker_that_fails_is_said_once_and_left_alone(store: Store) -> None:
    said: list[str] = []
    bad, good = Failing(), Noting()
    found = Tracking({"wandb": bad, "mlflow": good}, store, said.append)
    for step in (1, 2, 3):
        found.on_step(1, StepMetrics(step, 3, 1.0, 1e-4, 1.0, 0.5, 0.1))
    found.on_round(1)
    found.on_close()
    assert (bad.calls, good.calls) == (1, 104)
    assert said == ["tracking: wandb failed and is no longer used (ConnectionError: the service is down)"]


def test_one_that_does_not_open_is_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: trackers.Target) -> trackers.Tracker:
        raise OSError("no key")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", refuse)
    said: list[str] = []
    found = open_trackers(TrackingConfig(to=["wandb", "tensorboard"]), store, tmp_path, said.append)
    found.on_round(1)
    found.on_close()
    assert len(said) == 1 and "wandb could not be opened (OSError: no key)" in said[0]
    assert "round/num_kept" in scalars(tmp_path)


def test_a_missing_package_is_refused_before_anything_runs(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config(tracking={"to": ["trackio"]})
    with pytest.raises(ConfigError, match="trackio, which is not installed") as refused:
        preflight(config, run_dir=tmp_path / "run")
    assert "pip install trackio" in refused.value.hint


def test_settings_without_a_tracker_do_nothing_and_are_refused(write_config: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="without tracking"):
        load_config(write_config(tracking={"log_text": True}))
    with pytest.raises(ConfigError, match="twice"):
        load_config(write_config(tracking={"to": ["wandb", "wandb"]}))


def test_a_run_sends_its_steps_and_rounds(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config(rounds=2, tracking={"to": ["tensorboard"]})
    prepared = driver.preflight(load_config(config), config.parent, tmp_path / "run")
    store = driver.run(
        prepared, config.read_text(), [], Reporter(quiet=True), 25.0, Fakes(), observers=standard_observers
    )
    read = scalars(store.layout.attempt(1))
    assert [step for step, _ in read["round/eval_reward_mean"]] == [0, 1, 2]
    steps = sum(store.outcome(number, TrainOutcome).to_json()["optimizer_steps"] for number in (1, 2))
    assert [step for step, _ in read["train/loss"]] == list(range(1, steps + 1))
