"""Reports that a run writes by itself: as its rounds end, and never at the cost of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfplay import api
from selfplay.cli.main import app
from selfplay.config.load import load_config
from selfplay.config.running import ReportConfig
from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.execution.progress import Reporter
from selfplay.inspect.report import observer as automatic
from selfplay.inspect.report.observer import Report
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes

WriteConfig = Callable[..., Path]


@pytest.fixture
def write_config(write_config: WriteConfig) -> WriteConfig:
    """Runs that write reports."""
    return lambda **sections: write_config(**{**sections, "report": {"every": 1, **sections.get("report", {})}})


def run(path: Path, run_dir: Path) -> Store:
    return api.start(path, run_dir=run_dir, reporter=Reporter(quiet=True), workers=Fakes()).store


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])])
def test_a_report_is_due_after_so_many_rounds_and_at_the_end(
    whole_run: Path, monkeypatch: pytest.MonkeyPatch, every: int, due: list[int]
) -> None:
    written: list[int] = []
    monkeypatch.setattr(automatic, "gather", lambda store, redact, known: None)
    observer = Report(Store.open(whole_run), ReportConfig(every=every), 5, pytest.fail)
    for number in range(6):
        monkeypatch.setattr(automatic, "write", lambda store, report, number=number: written.append(number))
        observer.on_round(number)
    assert written == due
    observer.on_end()
    assert len(written) == len(due) + bool(due)


def test_a_run_leaves_its_report(write_config: WriteConfig, tmp_path: Path) -> None:
    store = run(write_config(rounds=1), tmp_path / "run")
    page = (store.layout.root / "report.html").read_text()
    assert "complete: all of 1 round " in page and 'id="examples"' in page
    assert "no record of its end" not in page  # written when the attempt had ended
    assert (store.layout.root / "README.md").read_text().startswith("# run\n")


def test_redacted_and_switched_off(write_config: WriteConfig, tmp_path: Path) -> None:
    store = run(write_config(rounds=1, report={"redact": True}), tmp_path / "redacted")
    assert "text of prompts and responses left out" in (store.layout.root / "report.html").read_text()
    store = run(write_config(rounds=1, report={"every": 0}), tmp_path / "off")
    assert not (store.layout.root / "report.html").exists()
    with pytest.raises(ConfigError, match=r"does nothing with report\.every: 0"):
        load_config(write_config(report={"every": 0, "redact": True}))


@pytest.mark.parametrize("error", [SelfplayError("no room", "Make room."), RuntimeError("a fault of ours")])
def test_a_report_that_fails_is_said_and_the_run_goes_on(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(store: Store, report: object) -> None:
        raise error

    monkeypatch.setattr(automatic, "write", failing)
    store = run(write_config(rounds=1), tmp_path / "run")
    assert store.attempt_documents()[-1]["end"]["outcome"] == "complete"
    lines = (store.layout.attempt(1) / "events.jsonl").read_text().splitlines()
    said = [event["text"] for event in map(json.loads, lines) if event["event"] == "message"]
    assert any(f"report.html was not written ({type(error).__name__}: {error}" in text for text in said)


@pytest.mark.parametrize("lost", ["none yet", "of an earlier round", "readme"])
def test_a_report_that_a_kill_came_before_is_written_by_the_resume(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    class Kill(BaseException):
        pass

    class Killed(Report):
        def on_round(self, round_number: int) -> None:
            if lost == "of an earlier round":
                super().on_round(round_number)

        def on_end(self) -> None:
            raise Kill

    if lost == "readme":
        run(write_config(rounds=1), tmp_path / "run")
        (tmp_path / "run/README.md").unlink()
    else:
        with monkeypatch.context() as patch, pytest.raises(Kill):
            patch.setattr(automatic, "Report", Killed)
            run(write_config(rounds=1), tmp_path / "run")
        assert (tmp_path / "run/report.html").exists() == (lost != "none yet")
    # nothing is left to do, no worker is started, and no attempt is begun
    result = CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert result.exit_code == 0, result.stderr
    assert "complete: all of" in (tmp_path / "run/report.html").read_text()
    assert (tmp_path / "run/README.md").is_file()
    assert len(Store.open(tmp_path / "run").attempt_documents()) == 1
    written = (tmp_path / "run/report.html").stat().st_ino
    CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert (tmp_path / "run/report.html").stat().st_ino == written


def test_what_a_kill_left_of_a_report_is_cleaned_up(run_copy: Path) -> None:
    (run_copy / ".tmp-report.html-0123abcd").write_text("half")
    Store.open(run_copy).clean_work()
    assert not (run_copy / ".tmp-report.html-0123abcd").exists()
