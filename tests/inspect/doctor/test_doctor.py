"""`doctor` looks at what a run needs of the shell and of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfplay.core import limits
from selfplay.core.limits import LIMITS, Shortage
from selfplay.inspect.doctor import doctor


def findings() -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in doctor.doctor_document(quick=True)["findings"]}


def test_every_limit_is_looked_at_and_a_shortage_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "shortages", lambda: iter([Shortage("open files", "a process may have 9", "More.")]))
    found = findings()
    assert set(LIMITS) <= found.keys()
    assert found["open files"] == {
        "name": "open files",
        "state": "warn",
        "message": "a process may have 9",
        "hint": "More.",
    }
    assert {found[name]["state"] for name in LIMITS if name != "open files"} == {"ok"}


def test_a_long_tmpdir_is_said_with_the_folder_that_ray_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    found = findings()["temporary files"]
    assert found["state"] == "ok"
    assert str(long) in found["message"] and "go to /tmp" in found["message"]


def test_a_run_cannot_start_without_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    document = doctor.doctor_document(quick=True)
    assert not document["ok"]
    assert findings()["temporary files"]["state"] == "fail"


def test_a_run_cannot_start_without_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*args: Any, **kwargs: Any) -> Any:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(limits.socket, "create_connection", down)
    assert findings()["loopback"]["state"] == "fail"
