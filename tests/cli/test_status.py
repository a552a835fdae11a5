"""`status`: of a folder of runs, and watched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from selfplay.cli import status
from selfplay.store.lock import RunLock
from tests.helpers.make_run import make_run

Call = Callable[..., Result]


@pytest.fixture
def runs(whole_run: Path, tmp_path: Path) -> Path:
    """A whole run, one that was stopped, one that is damaged, and what is none."""
    folder = tmp_path / "runs"
    shutil.copytree(whole_run, folder / "whole")
    make_run(folder / "stopped", stop=(2, "score"), outcome="failed")
    shutil.copytree(whole_run, folder / "damaged")
    (folder / "damaged/RUN.json").write_text("{")
    (folder / "notes").mkdir()
    (folder / "README.md").write_text("about runs")
    return folder


def test_a_folder_of_runs(selfplay: Call, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = selfplay("status", runs)
    assert result.exit_code == 5
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [
        ["damaged", "corrupt"], ["stopped", "failed"], ["whole", "complete"],
    ]  # fmt: skip
    shutil.rmtree(runs / "damaged")
    monkeypatch.chdir(runs.parent)
    result = selfplay("status", "--json")
    assert result.exit_code == 0
    found = {run["name"]: run for run in json.loads(result.stdout)["runs"]}
    assert list(found) == ["stopped", "whole"]
    stopped = found["stopped"]
    assert (stopped["state"], stopped["rounds_done"], stopped["rounds_planned"]) == ("failed", 1, 2)
    assert (stopped["round"], stopped["stage"]) == (2, "score")
    assert found["whole"]["gold"] is not None


def test_a_folder_without_runs(selfplay: Call, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    result = selfplay("status", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a run" in result.stderr


def test_watched_until_nothing_runs(selfplay: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_run(tmp_path / "run", stop=(1, "sample"), outcome=None)
    events = store.layout.attempt(1) / "events.jsonl"
    lock = RunLock(store.layout.lock)
    looks = []

    def time_passes(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            progress = {"event": "progress", "title": "round 1 sample", "done": 40, "total": 160}
            loads = [{"event": "loading", "what": "sampler"}, {"event": "loaded", "what": "sampler", "seconds": 2.0}]
            loads.append({"event": "loading", "what": "scorer"})
            loads.append(
                {"event": "overlap", "stages": [["sample", "score"]], "text": "sample and score work side by side"}
            )
            events.write_text("".join(json.dumps(event) + "\n" for event in (*loads, progress)))
        if len(looks) == 4:
            lock.__exit__(None, None, None)

    monkeypatch.setattr(status.time, "sleep", time_passes)
    lock.__enter__()
    result = selfplay("status", store.layout.root, "--watch", "--json")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["running", "running", "interrupted"], "said again only when it changes"
    assert [line["progress"] and line["progress"]["done"] for line in lines] == [None, 40, None]
    assert [line["loading"] for line in lines] == [[], ["scorer"], []]

    looks.clear()
    lock.__enter__()
    text = selfplay("status", store.layout.root, "--watch").stdout
    assert "progress: round 1 sample: 40 of 160\norder: sample and score work side by side\nloading: scorer\n" in text
    assert text.rstrip().endswith(f"next: selfplay resume {store.layout.root}")
