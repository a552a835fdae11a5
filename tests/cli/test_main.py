"""The console script: what it imports, how it fails, which commands there are."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfplay import __version__
from selfplay.cli import main
from selfplay.core.errors import LockedError

Call = Callable[..., Result]

COMMANDS = {
    "compare",
    "config",
    "diff",
    "doctor",
    "export",
    "fork",
    "gc",
    "metrics",
    "pair",
    "pairs",
    "report",
    "quickstart",
    "resume",
    "rounds",
    "run",
    "select",
    "show",
    "sql",
    "status",
    "verify",
    "view",
}
HEAVY = ("torch", "vllm", "ray", "transformers", "datasets", "trl", "peft")
LIBRARIES = ("pyarrow", "numpy", "pydantic", "ruamel", "rich")


def test_command_surface() -> None:
    app = main.app
    assert {command.name for command in app.registered_commands} | {"config"} == COMMANDS == {*main.COMMANDS}
    (config,) = app.registered_groups
    assert config.name == "config" and config.typer_instance is not None
    assert [command.name for command in config.typer_instance.registered_commands] == ["show", "validate", "schema"]


@pytest.mark.parametrize("asked", [["pair", "--help"], ["config", "schema", "--help"]])
def test_a_command_says_the_same_whether_the_others_are_made_or_not(asked: list[str]) -> None:
    alone = CliRunner().invoke(main.make_app(asked[:1]), asked)
    assert (alone.exit_code, alone.output) == (0, CliRunner().invoke(main.app, asked).output)


INSPECTION = [
    "--help", "status RUN", "status RUNS", "rounds RUN", "show RUN 1", "pairs RUN 1 --content", "pair RUN p1-002-r001-2-1",
    "verify RUN --deep", "report RUN --out OUT", "config schema", "config show RUN", "doctor --quick", "metrics",
    "export RUN --to DATA", "sql RUN QUERY", "diff RUN @1 --content",
]  # fmt: skip
# One process for all commands: what one imports, the next ones have too.
IN_TURN = """
import contextlib, io, json, sys
from selfplay.cli.main import main
for line in json.load(sys.stdin):
    sys.argv = ["selfplay", *line]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main()
    assert output.getvalue(), line
    assert not (found := [name for name in HEAVY if name in sys.modules]), (line, found)
"""


def test_inspection_imports_nothing_heavy(whole_run: Path, tmp_path: Path) -> None:
    words = {
        "RUN": str(whole_run),
        "RUNS": str(whole_run.parent),
        "OUT": str(tmp_path / "out.html"),
        "DATA": str(tmp_path / "data"),
    }
    words["QUERY"] = "select 1"
    lines = [[words.get(word, word) for word in line.split()] for line in INSPECTION]
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY}{IN_TURN}"],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_imports_no_table_library(whole_run: Path) -> None:
    program = (
        "import sys\nfrom selfplay.cli.main import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        f"sys.exit(' '.join(name for name in {LIBRARIES} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_version_and_usage(selfplay: Call) -> None:
    assert selfplay("--version").stdout.strip() == f"selfplay {__version__}"
    assert selfplay("no-such-command").exit_code == 2
    assert selfplay("pairs").exit_code == 2
    assert selfplay("pairs", "x", "-1").exit_code == 2


def invoke(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Result:
    def fail(*_: object) -> None:
        raise error

    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main.guarded(lambda: fail()))
    return CliRunner().invoke(app, [])


def test_errors_become_a_message_and_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, LockedError("held by \x1b[1mme", "wait"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: held by \\x1b[1mme\n  -> wait\n"
    result = invoke(monkeypatch, KeyError("x"))
    assert result.exit_code == 1
    assert "unexpected KeyError: 'x'" in result.stderr
    assert "SELFPLAY_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr
    assert invoke(monkeypatch, KeyboardInterrupt()).exit_code == 130
    monkeypatch.setenv("SELFPLAY_DEBUG", "1")
    assert "Traceback" in invoke(monkeypatch, KeyError("x")).stderr


def test_reader_that_has_enough(whole_run: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    program = "from selfplay.cli.main import main; main()"
    command = [sys.executable, "-c", program, "pairs", str(whole_run), "1", "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_summaries_are_shown_whole(selfplay: Call) -> None:
    lines = selfplay("--help").stdout.splitlines()
    ours = [line for line in lines if line.split()[:1] and line.split()[0] in COMMANDS]
    assert {line.split()[0] for line in ours} == COMMANDS
    assert not any(line.endswith("...") for line in ours)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_lead_nowhere(closed: str) -> None:
    code = "import os, sys; from selfplay.cli.main import open_streams; open_streams(); file = open(os.devnull); "
    code += "sys.exit(3 if file.fileno() < 3 or None in (sys.stdin, sys.stdout, sys.stderr) else 0)"
    assert subprocess.run(["sh", "-c", f"exec {sys.executable} -c '{code}' {closed}"], check=False).returncode == 0


def test_a_run_that_is_complete_has_ended_well_whoever_hears_of_it(whole_run: Path) -> None:
    """Its terminal was closed while it worked: writing gives EIO there, not a broken pipe."""
    code = "import sys; from selfplay.cli.main import guarded; from selfplay.cli.run import finish; from pathlib import Path; "
    code += "sys.stdin.readline(); guarded(lambda: finish(Path(sys.argv[1]), False))()"
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(whole_run)], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.close(ours)
    child.communicate(b"\n")
    assert child.returncode == 0


@pytest.mark.parametrize("arguments", ["rounds no-such-run", "no-such-command", "pairs"])
def test_the_exit_code_is_right_when_nobody_reads_the_output(tmp_path: Path, arguments: str) -> None:
    """Buffered streams, as every user has them: text that is still in a buffer when Python ends must not change the code."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "selfplay", *arguments.split()]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert (
            subprocess.run(command, stdout=writing, stderr=writing, env=env, cwd=tmp_path, check=False).returncode == 2
        )
    finally:
        os.close(writing)
    for closed in (">&-", "2>&-", "<&- >&- 2>&-") if arguments == "no-such-command" else ("<&- >&- 2>&-",):
        line = f"exec {sys.executable} -m selfplay {arguments} {closed}"
        assert subprocess.run(["sh", "-c", line], env=env, cwd=tmp_path, check=False).returncode == 2


def test_shells_complete_the_commands() -> None:
    env = {**os.environ, "_SELFPLAY_COMPLETE": "complete_bash", "COMP_WORDS": "selfplay pa", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "selfplay"], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["pairs", "pair"]


def test_a_working_directory_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `rm -r` of a folder in another terminal."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = CliRunner().invoke(main.make_app(["status"]), ["status", str(tmp_path)])
    assert found.exit_code == 2 and "the working directory of this shell was deleted" in found.output


def test_a_name_that_is_not_utf_8_is_said(tmp_path: Path) -> None:
    source = tmp_path / "a\udcff.jsonl"  # as Python holds the byte 0xff in a name
    source.write_text('{"prompt": "q", "chosen": "c", "rejected": "r", "score_chosen": 1, "score_rejected": 0}\n')
    asked = ["select", str(source), "--metric", "explicit_margin", "--keep", "1.0", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main.make_app(["select"]), asked)
    assert found.exit_code == 2 and "is not UTF-8" in found.output and "Rename the file" in found.output
