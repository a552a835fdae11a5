"""Runs that can only be read: each command says what it can still do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result


@pytest.mark.parametrize(
    ("command", "way_out"),
    [
        (["resume", "RUN", "rounds=3"], "fork RUN --from-round 2 --run-dir NEW-FOLDER rounds=N"),
        (["gc", "RUN", "--keep-policies", "2"], "Only --dry-run works on it"),
        (["report", "RUN"], "report RUN --out FILE"),
    ],
)
def test_a_read_only_run_offers_what_can_be_done(
    command: list[str], way_out: str, run_copy: Path, selfplay: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root can write everywhere
    before = sorted(path.stat().st_mtime_ns for path in run_copy.rglob("*"))
    done = selfplay(*[word.replace("RUN", str(run_copy)) for word in command])
    assert done.exit_code == 1 and "can only be read by this user" in done.stderr
    assert way_out.replace("RUN", str(run_copy)) in done.stderr
    assert sorted(path.stat().st_mtime_ns for path in run_copy.rglob("*")) == before
