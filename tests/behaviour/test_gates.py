"""A policy that collapses, in the whole loop on fakes: stopped before anything is trained, resumed with other thresholds or by
force, and a training that diverges commits nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from selfplay.backends.trl.callback import check_step
from selfplay.cli.main import app
from selfplay.config.load import load_config
from selfplay.core.errors import DivergedError, GateError
from selfplay.core.outcomes import PairOutcome
from selfplay.core.protocols import StepMetrics, TrainJob, TrainLimits
from selfplay.execution.progress import Reporter
from selfplay.inspect.documents.show import show_document
from selfplay.run import driver
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeSampler
from tests.run.test_driver import WriteConfig, end_of, is_complete, resume, start


class Collapsing(FakeSampler):
    """Says nothing any more once its policy was trained."""

    def sample(self, requests: Any, settings: Any) -> pa.Table:
        table = super().sample(requests, settings)
        if len({*self.loaded}) == 1:
            return table
        names = table.column_names
        return table.set_column(names.index("text"), "text", pa.array([" "] * table.num_rows))


@pytest.fixture
def collapsed(write_config: WriteConfig, tmp_path: Path) -> tuple[Path, Callable[[], Fakes]]:
    """A run whose second round tripped a gate."""

    def fakes() -> Fakes:
        made = Fakes()
        made.sampler = Collapsing()
        made.sampler.loaded.append("the starting policy")
        return made

    first, run = Fakes(), tmp_path / "run"
    first.sampler = Collapsing()
    with pytest.raises(GateError) as stopped:
        start(write_config(rounds=2), run, first)
    assert stopped.value.exit_code == 1
    assert "round 2: the responses of the policy after round 1 look like a collapse" in stopped.value.message
    assert "80 of 80 responses are empty (100.0%, gates.max_empty is 50.0%)" in stopped.value.message
    assert f"selfplay show {run} 2" in stopped.value.hint and "--force" in stopped.value.hint
    assert "gates.max_empty=1.0" in stopped.value.hint
    assert f"selfplay fork {run} --from-round 0 training.learning_rate=0.0005`" in stopped.value.hint
    return run, fakes


def test_a_collapse_stops_the_run_before_training_and_keeps_the_last_policy(
    collapsed: tuple[Path, Callable[[], Fakes]],
) -> None:
    run, fakes = collapsed
    store = Store.open(run)
    assert end_of(run)["outcome"] == "failed" and "look like a collapse" in end_of(run)["message"]
    assert store.is_committed(1, "train") and store.is_committed(2, "score")
    assert not store.is_committed(2, "pair")
    shown = CliRunner().invoke(app, ["status", str(run)]).stdout
    assert "failed: round 2: the responses" in shown and "Examples: ..." in shown and "\\n" not in shown
    # again, and it says the same
    with pytest.raises(GateError, match=r"gates\.max_empty"):
        resume(run, fakes())


def test_a_collapse_can_be_gone_on_with_by_other_thresholds(collapsed: tuple[Path, Callable[[], Fakes]]) -> None:
    run, fakes = collapsed
    changes = {f"gates__max_{name}": 1.0 for name in ("empty", "repeated", "identical")}
    said = resume(run, fakes(), **changes)
    assert "changed: gates.max_empty: 0.5 -> 1.0 (resource)" in said
    assert is_complete(run, 2)
    assert Store.open(run).outcome(2, PairOutcome).to_json()["gates_forced"] == []


def test_force_goes_on_and_is_recorded_and_shown(collapsed: tuple[Path, Callable[[], Fakes]], tmp_path: Path) -> None:
    run, fakes = collapsed
    store = Store.open(run)
    config = load_config(tmp_path / "config.yaml")
    prepared = driver.preflight(config, tmp_path, run, store)
    pins = json.loads(store.config_file("pins.json"))
    driver.resume(store, prepared, config, pins, Reporter(quiet=True), workers=fakes(), force=True)
    assert is_complete(run, 2)
    documents = Store.open(run).attempt_documents()
    assert [document["force"] for document in documents] == [False, True]
    forced = Store.open(run).outcome(2, PairOutcome).to_json()["gates_forced"]
    assert forced[0]["gate"] == "gates.max_empty"
    warnings = show_document(Store.open(run), 2)["warnings"]
    said = [warning["message"] for warning in warnings if warning["name"] == "gate_forced"]
    assert len(said) == 3 and "80 of 80 responses are empty" in said[0]
    shown = CliRunner().invoke(app, ["rounds", str(run)])
    assert "! round 2 was continued with --force: 80 of 80 responses are empty" in shown.stderr
    assert "gates_forced" in CliRunner().invoke(app, ["rounds", str(run), "--json"]).stdout


def test_a_training_that_diverges_commits_nothing_and_says_what_to_change(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    fakes, run = Fakes(), tmp_path / "run"

    def diverge(job: TrainJob, progress: Any) -> Any:
        progress(StepMetrics(1, 4, 0.69, 1e-3, 1.0, 0.5, 0.0))
        check_step(StepMetrics(2, 4, math.nan, 1e-3, 3.5, 0.5, 0.0), job.limits)

    fakes.trainer.train = diverge  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"step 2 of 4: the loss is nan \(loss nan, gradient norm 3\.5") as stopped:
        start(write_config(rounds=1), run, fakes)
    assert stopped.value.exit_code == 1
    assert f"selfplay fork {run} --from-round 0 training.learning_rate=0.0005`" in stopped.value.hint
    store = Store.open(run)
    assert store.is_committed(1, "select") and not store.is_committed(1, "train")
    assert end_of(run)["outcome"] == "failed"
    # the trainer is given the limits of the configuration in force
    resume(run, limited := Fakes(), gates__max_loss=7.0, gates__max_grad_norm=None)
    assert limited.trainer.jobs[0].limits == TrainLimits(7.0, None, 1.0)
    assert is_complete(run, 1)


@pytest.mark.parametrize(
    ("loss", "norm", "limits", "said"),
    [
        (math.nan, 1.0, TrainLimits(), "the loss is nan"),
        (0.5, math.inf, TrainLimits(), "the gradient norm is inf"),
        (101.0, 1.0, TrainLimits(100.0, None), r"the loss is 101; the limit gates\.max_loss is 100"),
        (0.5, 2e5, TrainLimits(None, 1e5), r"the gradient norm is 200000; the limit gates\.max_grad_norm is 100000"),
    ],
)
def test_a_step_beyond_its_limits(loss: float, norm: float, limits: TrainLimits, said: str) -> None:
    with pytest.raises(DivergedError, match=rf"optimizer step 3 of 9: {said} \(loss .*learning rate 1e-06\)"):
        check_step(StepMetrics(3, 9, loss, 1e-6, norm, 0.5, 0.0), limits)
    check_step(StepMetrics(3, 9, 99.0, 1e-6, 9e4, 0.5, 0.0), TrainLimits(100.0, 1e5))
    check_step(StepMetrics(3, 9, 1e9, 1e-6, 1e9, 0.5, 0.0), TrainLimits())


@pytest.mark.parametrize("command", ["run", "resume"])
def test_both_commands_take_force(command: str) -> None:
    assert "--force" in CliRunner().invoke(app, [command, "--help"]).stdout
