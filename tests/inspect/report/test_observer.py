"""Reports that a run writes by itself: as its rounds end, and never at the cost of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.config.load import load_config, validate
from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.execution.progress import Reporter
from selfplay.inspect.report import observer as automatic
from selfplay.inspect.report.observer import report_round
from selfplay.run import driver
from selfplay.selection.pairing import PairRules
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.make_run import config

WriteConfig = Callable[..., Path]


def run(path: Path, run_dir: Path) -> Store:
    prepared = driver.prepare(load_config(path), path.parent, run_dir)
    return driver.start(prepared, path.read_text(), [], Reporter(quiet=True), workers=Fakes())


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (9, [0, 5])])
def test_a_report_is_due_after_so_many_rounds_and_after_the_last(
    whole_run: Path, monkeypatch: pytest.MonkeyPatch, every: int, due: list[int]
) -> None:
    written: list[int] = []
    settings = validate({**config(5, PairRules()), "report": {"every": every}}, "test")
    monkeypatch.setattr(automatic, "gather", lambda store, redact: None)
    for number in range(6):
        monkeypatch.setattr(automatic, "write", lambda store, report, number=number: written.append(number))
        report_round(Store.open(whole_run), settings, number, written.append)  # type: ignore[arg-type]
    assert written == due


def test_a_run_leaves_its_report(write_config: WriteConfig, tmp_path: Path) -> None:
    store = run(write_config(rounds=1), tmp_path / "run")
    page = (store.layout.root / "report.html").read_text()
    assert "complete: all of 1 round " in page and 'id="examples"' in page
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

    def killed(store: Store, config: object, number: int, say: object) -> None:
        if number == 1:
            raise Kill
        if lost == "of an earlier round":
            report_round(store, config, number, say)  # type: ignore[arg-type]

    if lost == "readme":
        run(write_config(rounds=1), tmp_path / "run")
        (tmp_path / "run/README.md").unlink()
    else:
        with monkeypatch.context() as patch, pytest.raises(Kill):
            patch.setattr(driver, "report_round", killed)
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
