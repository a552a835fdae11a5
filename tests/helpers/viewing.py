"""Runs and clients for the tests of the viewer."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.testclient import TestClient
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.inspect.viewer.app import make_app
from tests.helpers.make_run import HOSTILE

BASE = "http://127.0.0.1:7357"
MARKUP = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>\" onmouseover=\"window.owned = 1"
NASTY = f"{MARKUP} {HOSTILE}"


def make_selection(folder: Path) -> Path:
    """What `select` leaves, of ten pairs."""
    source = folder.parent / "pairs.jsonl"
    rows = [
        {
            "prompt": f"question {row}", "chosen": f"good answer {row} {MARKUP}", "rejected": f"bad answer {row}",
            "reward_chosen": row / 10 + 0.5, "reward_rejected": 0.1,
        }
        for row in range(10)
    ]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["select", str(source), "--metric", "explicit_margin", "--keep", "0.4", "--out", str(folder / "chosen")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    return folder / "chosen"


def client_of(place: Path) -> TestClient:
    return TestClient(make_app(place, "127.0.0.1"), base_url=BASE, follow_redirects=False)
