"""Rewards and log-probs of any magnitude through the whole loop on fakes, and through every command and page that counts, bins,
draws or sums them: nearly equal, beyond what can be subtracted or squared, denormal, all equal, no numbers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import selfplay
from selfplay.cli.main import app
from selfplay.core.errors import BackendError
from selfplay.core.protocols import LogprobItem, ScoreItem
from selfplay.execution.progress import Reporter
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.run import Store
from tests.helpers.fakes import FakeLogprobs, Fakes, FakeScorer
from tests.helpers.viewing import client_of
from tests.run.test_driver import start

LARGEST = sys.float_info.max
TINY = 5e-324
EDGES = {
    "one ulp apart": [0.3, 0.1 + 0.2],
    "one ulp apart and large": [1e17, math.nextafter(1e17, math.inf)],
    "near the largest float": [1e308, -1e308, 0.0],
    "the largest floats": [LARGEST, -LARGEST, LARGEST / 2],
    "denormal": [TINY, 0.0, 3 * TINY],
    "tiny": [1e-200, 2e-200, -1e-200],
    "all equal": [0.25],
    "all equal and large": [1e17],
    "all equal to the largest float": [LARGEST],
    "very different": [1e308, 1e-308, 1.0, 0.0, -1.0],
}


class EdgeScorer(FakeScorer):
    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self._values = values

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        table = super().score(items)
        rewards = [self._values[sum(map(ord, item.response)) % len(self._values)] for item in items]
        return table.set_column(1, "reward", pa.array(rewards, pa.float64()))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", EDGES)
def test_rewards_at_the_edge_reach_every_page(name: str, write_config: Callable[..., Path], tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.scorer, fakes.gold = EdgeScorer(EDGES[name]), EdgeScorer(EDGES[name])
    run = start(write_config(rounds=1, report={"every": 1}), tmp_path / "run", fakes).layout.root
    assert (run / "report.html").is_file()
    assert "was not written" not in (run / "attempts/0001/log.txt").read_text()
    check_pages(run, tmp_path)


class EdgeLogprobs(FakeLogprobs):
    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self._values = values

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        table = super().logprobs(folder, digest, items)
        shift = int(digest[:4], 16)  # policies differ
        logps = [self._values[(sum(item.token_ids) + shift) % len(self._values)] for item in items]
        return table.set_column(1, "logp", pa.array(logps, pa.float64()))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("values", "form"),
    [
        pytest.param([-LARGEST, -1e308, -1.0, 0.0], "dpo", id="margins that are no float"),
        pytest.param([-TINY, -0.0, -3 * TINY], "simpo", id="denormal"),
        pytest.param([-7.25], "simpo", id="all equal"),
    ],
)
def test_logprobs_at_the_edge_reach_every_page(
    values: list[float], form: str, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    fakes = Fakes()
    fakes.logprobs = EdgeLogprobs(values)
    sections: dict[str, Any] = {"selection": {"implicit_margin": form}}
    if form == "dpo":
        sections = {
            "selection": {"implicit_margin": form, "first_round_metric": "random"},
            "training": {"reference": "initial"},
        }
    run = start(write_config(rounds=2, **sections), tmp_path / "run", fakes).layout.root
    check_pages(run, tmp_path)
    margins = Store.open(run).table(2, "select", columns=["implicit_margin", "drop_reason", "kept"]).to_pylist()
    assert all(pair["implicit_margin"] is not None or pair["drop_reason"] == "metric_not_finite" for pair in margins)
    assert not any(pair["kept"] for pair in margins if pair["implicit_margin"] is None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logprob_that_is_no_number_stops_the_run(
    value: float, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing can stand in its place, and the stage can be done again with weights that are whole."""
    fakes = Fakes()
    fakes.logprobs = EdgeLogprobs([-1.0, -2.0, value])
    config = write_config(rounds=1)
    with pytest.raises(BackendError, match=r"the log-prob of response .* under .* is -?(nan|inf)") as stopped:
        start(config, tmp_path / "run", fakes)
    assert "policy.dtype" in stopped.value.hint
    assert not Store.open(tmp_path / "run").is_committed(1, "logprobs")
    selfplay.resume(tmp_path / "run", workers=Fakes(), reporter=Reporter(quiet=True))
    assert verify_document(tmp_path / "run", deep=True)["problems"] == []


def check_pages(run: Path, tmp_path: Path) -> None:
    """Nothing that shows a run fails for it, warns, or shows a number that is none."""
    assert verify_document(run, deep=True)["problems"] == []
    for command in (
        ["show", "1"], ["show", "1", "--json"], ["rounds"], ["rounds", "--json"], ["report"], ["pairs", "1"],
        ["pairs", "1", "--sort", "explicit_margin"], ["status"], ["sql", "select avg(reward), stddev(reward) from rewards"],
        ["export", "--to", str(tmp_path / "exported")],
    ):  # fmt: skip
        done = CliRunner().invoke(app, [command[0], str(run), *command[1:]])
        assert done.exit_code == 0, (command, done.stderr, done.exception)
        assert "nan" not in done.stdout.lower().replace("nano", ""), (command, done.stdout)
        if "--json" in command:
            assert "NaN" not in done.stdout and "Infinity" not in done.stdout
            json.loads(done.stdout)
    done = CliRunner().invoke(app, ["diff", f"{run}@0", f"{run}@1"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    with client_of(tmp_path) as client:
        for page in ("", "/round/1", "/round/1/pairs", "/against?kind=evaluation&a=0&b=1"):
            answer = client.get(f"/run/run{page}")
            assert answer.status_code == 200, (page, answer.text[:500])
            assert '"nan"' not in answer.text and '="inf"' not in answer.text
