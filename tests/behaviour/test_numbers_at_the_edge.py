"""Rewards of any magnitude through the whole loop on fakes, and through every command and page that counts, bins, draws or sums
them: nearly equal, beyond what can be subtracted or squared, denormal, all equal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.core.protocols import ScoreItem
from selfplay.inspect.verify.verify import verify_document
from tests.helpers.fakes import Fakes, FakeScorer
from tests.helpers.viewing import client_of
from tests.run.test_driver import start

LARGEST = sys.float_info.max
TINY = 5e-324
EDGES = {
    "one ulp apart and large": [1e17, math.nextafter(1e17, math.inf)],
    "the largest floats": [LARGEST, -LARGEST, LARGEST / 2],
    "denormal": [TINY, 0.0, 3 * TINY],
    "tiny": [1e-200, 2e-200, -1e-200],
    "all equal": [0.25],
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
    run = start(write_config(rounds=1), tmp_path / "run", fakes).layout.root
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
