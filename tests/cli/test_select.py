"""`selfplay select` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.helpers.tables import number_table, text_rows, write_rows

Selfplay = Callable[..., Result]


def test_select_writes_says_and_does_it_once(selfplay: Selfplay, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(30)), tmp_path / "out"
    arguments = ["select", source, "--metric", "alignment_potential", "--keep", "0.4", "--weight", "2.5", "--out", out]
    done = selfplay(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "kept 12 of 30 ranked pairs" in done.stdout
    assert "funnel" in done.stdout
    again = selfplay(*arguments, "--json")
    assert again.exit_code == 0
    assert "already contains this selection" in again.stderr
    assert json.loads(again.stdout)["selection"]["num_kept"] == 12
    other = selfplay(*arguments[:-4], "--keep", "0.5", "--weight", "1", "--out", out)
    assert other.exit_code == 4
    assert "weight: 2.5 -> 1.0" in other.stderr


def test_a_file_says_the_same_as_flags(selfplay: Selfplay, tmp_path: Path) -> None:
    source = number_table(tmp_path / "a.parquet")
    config = tmp_path / "select.yaml"
    config.write_text(f"dataset: {source}\nkeep: 0.4\nout: {tmp_path / 'one'}\nmetric: explicit_margin\n")
    assert selfplay("select", "--config", config).exit_code == 0
    flags = ["select", source, "--keep", "0.4", "--metric", "explicit_margin", "--out", tmp_path / "two"]
    assert selfplay(*flags).exit_code == 0
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert one == two
    over = selfplay("select", "--config", config, "--keep", "0.2", "--out", tmp_path / "three", "seed=3")
    assert over.exit_code == 0, over.stderr
    assert "keep: the command line's value" in over.stderr
    settings = json.loads((tmp_path / "three" / "summary.json").read_text())["settings"]
    assert (settings["keep"], settings["seed"]) == (0.2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "1"], "one pair or all"),
        (["--keep", "0"], "keep"),
        (["--keep", "1.5"], "keep"),
        (["--keep", "-1"], "keep"),
        (["--keep", "0.4", "--metric", "explicit_margn"], "explicit_margin"),
        (["--keep", "0.4", "--columns", "reward_chosen"], "NAME=VALUE"),
        (["--keep", "0.4", "--columns", "reward_chosen=a,reward_chosen=b"], "twice"),
        (["--keep", "0.4", "--option", "tau=1.0"], "tau"),
        (["--keep", "0.4", "--implicit-margin", "kto"], "implicit_margin"),
        (["--keep", "0.4", "--policy", "no/such/folder"], "no such model folder"),
        ([], "keep"),
    ],
)  # fmt: skip
def test_usage_errors_exit_with_2(selfplay: Selfplay, tmp_path: Path, arguments: list[str], words: str) -> None:
    source = number_table(tmp_path / "a.parquet")
    done = selfplay("select", source, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "out" / "kept").exists()


def test_what_is_missing_is_said_with_the_ways(selfplay: Selfplay, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(5, columns=False))
    done = selfplay("select", source, "--keep", "0.4", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert all(flag in done.stderr for flag in ("--policy", "--reward-model", "--columns"))


def test_rows_that_are_bad_are_named(selfplay: Selfplay, tmp_path: Path) -> None:
    rows = text_rows(10)
    rows[4]["chosen"][0]["content"] = " "
    rows[6].pop("rejected")
    source = write_rows(tmp_path / "a.jsonl", rows)
    done = selfplay("select", source, "--keep", "0.5", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "a.jsonl row 5" in done.stdout
    assert "a.jsonl row 7" in done.stdout


def test_paths_do_not_travel_in_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from selfplay.cli.select import _shown

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("")
    given = [
        "select",
        "data/a.jsonl",
        "--policy=/home/me/policy",
        "--metric",
        "/home/me/mine.py:mine",
        "--out",
        "~/out",
    ]
    assert _shown(given) == "selfplay select a.jsonl --policy=policy --metric mine.py:mine --out out"
    assert _shown(["select", "a", "policy=/home/me/policy", "pairs.min_gap=0.1", "reward_function=~/r.py:f"]) == (
        "selfplay select a policy=policy pairs.min_gap=0.1 reward_function=r.py:f"
    )
    assert _shown(["select", "org/name", "--policy", "org/model"]) == "selfplay select org/name --policy org/model"
