"""summary.json is a format: its golden copy, and that nothing of the machine is in what travels."""

from __future__ import annotations

import getpass
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfplay.dataset_selection import pipeline
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter
from tests.helpers.tables import text_rows, write_rows

GOLDEN = Path(__file__).parent / "golden_summary.json"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    rows = text_rows(40)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["chosen"][0]["content"] = ""
    source = write_rows(root / "pairs.jsonl", rows)
    settings, _ = load_settings(
        {"dataset": str(source), "out": str(root / "out"), "keep": 0.4, "group_column": "topic"}
    )
    pipeline.run(settings, Reporter(io.StringIO()), command="selfplay select pairs.jsonl --keep 0.4")
    return root / "out"


def plain(value: Any) -> Any:
    """Numbers rounded (they may differ in the last bits between machines)."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) > 1e-9 else 0.0
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


def test_the_summary_is_the_golden_one(result: Path) -> None:
    found = plain(json.loads((result / "summary.json").read_text()))
    found["versions"] = sorted(found["versions"])
    if os.environ.get("SELFPLAY_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(GOLDEN.read_text())
    assert found["schema"] == 1


def test_what_travels_says_nothing_of_the_machine(result: Path) -> None:
    for name in ("summary.json", "README.md", ".COMMIT.json"):
        text = (result / name).read_text()
        assert str(result.parent) not in text
        assert str(Path.home()) not in text
        for word in (getpass.getuser(), socket.gethostname()):
            assert word == "root" or word not in text


def test_the_card_says_how_it_was_made(result: Path) -> None:
    text = (result / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    splits = yaml.safe_load(front)["configs"][0]["data_files"]
    assert splits == [{"split": name, "path": f"{name}/*.parquet"} for name in ("kept", "dropped")]
    assert "selfplay select pairs.jsonl --keep 0.4" in body
    for words in ("z(R) - weight", "identical", "length_gap_mean", "LLaMA-Factory", "axolotl", "topic"):
        assert words in body


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = text_rows(10)
    name = "a|b`c<script>\x1b[31m.jsonl"
    source = write_rows(tmp_path / name, rows)
    settings, _ = load_settings({"dataset": str(source), "out": str(tmp_path / "out"), "keep": 0.4})
    pipeline.run(settings, Reporter(io.StringIO()), command="selfplay select x\n# not a heading")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "\x1b" not in text
    assert "\n# not a heading" not in text
