"""A trace of a run: slices that nest, one track for each worker, and a file that a kill leaves readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import ConfigError
from selfplay.core.timing import Span, collecting, part
from selfplay.inspect.trace import Trace, require_new_file


def traced(path: Path) -> Trace:
    trace = Trace(path, "first")
    found = collecting()
    with part("waiting"), part("loading"):
        pass
    found.add(
        "sampler-0",
        [Span("", "loading", found.began, found.began + 1), Span("", "computing", found.began, found.began + 3)],
    )
    trace.on_timing(1, "sample", found)
    return trace


def slices(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return [(tracks[event["tid"]], event["name"]) for event in events if event["ph"] == "X"]


def test_a_track_for_the_driver_of_each_stage_and_for_each_worker(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    traced(path).on_close()
    events = json.loads(path.read_text())
    assert slices(events) == [
        ("driver: sample", "round 1 sample"), ("sampler-0", "computing"), ("sampler-0", "loading"),
        ("driver: sample", "waiting"), ("driver: sample", "loading"),
    ]  # fmt: skip
    durations = {event["name"]: event["dur"] for event in events if event.get("tid") and event["ph"] == "X"}
    assert durations["computing"] == 3_000_000
    assert all(event["args"] == {"round": 1, "stage": "sample"} for event in events if event["ph"] == "X")


def test_of_a_killed_run_the_stages_that_were_committed_are_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    traced(path)
    # what viewers make of it: the array without its end
    assert len(slices(json.loads(path.read_text().rstrip().rstrip(",") + "]"))) == 5


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"trace\.json exists"):
        require_new_file(tmp_path / "trace.json")
    with pytest.raises(ConfigError, match="there is no folder"):
        require_new_file(tmp_path / "nowhere" / "trace.json")
