"""`selfplay compare` as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfplay.cli.main import app


def selfplay(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)])


def test_a_dry_run_checks_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = selfplay(
        config, "training.beta=0.2", "--metrics", "random,full", "--arm", "small: selection.metric=implicit_margin_small",
        "--seeds", 2, "--equal", "both", "--out", out, "--dry-run", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    document = json.loads(found.stdout)
    assert [arm["name"] for arm in document["arms"]] == ["random", "full", "small"]
    assert document["worlds"][0]["document"]["training"]["beta"] == 0.2
    assert (document["num_seeds"], document["equal"]) == (2, ["steps", "epochs"])
    assert "10 optimizer steps a round in every arm" in found.stderr
    assert "12 runs in" in found.stderr
    assert not out.exists()


def test_a_finished_comparison_is_shown_without_workers(finished: Path, out: Path) -> None:
    shown = selfplay("--out", out)
    assert shown.exit_code == 0, shown.stderr
    for text in ("after round 2, equal steps, 10 optimizer steps a round", "explicit_margin", "share of each topic"):
        assert text in shown.stdout
    as_json = selfplay("--out", out, "--json")
    assert json.loads(as_json.stdout) == json.loads((finished / "results.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--equal", "time"], "--equal 'time' is not known"),
        (["missing.yaml", "--metrics", "random"], "no config file at missing.yaml"),
        (["--metrics", "random"], "needs a config and arms"),
        (["--arm", "nothing"], "--arm 'nothing' is not of the form"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], message: str, tmp_path: Path) -> None:
    found = selfplay(*arguments, "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert message in found.stderr
    assert not (tmp_path / "out").exists()


def test_settings_without_their_config_are_refused(out: Path) -> None:
    found = selfplay("training.beta=0.2", "--out", out)
    assert found.exit_code == 2
    assert "need the config they belong to" in found.stderr
    shutil.rmtree(out)
