"""What people see of a run: a bar that stays on one line of a terminal, a line a minute without one; and what the files keep."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from selfplay.execution import progress as reporting
from selfplay.execution.progress import LINE_EVERY, Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that stand on the screen, the last one that of the cursor."""
        lines = [""]
        plain = re.sub(r"\x1b\[[\d;]*m", "", self.getvalue().replace("\r\x1b[2K", "\0clear\0"))
        for piece in plain.split("\0"):
            first, *rest = piece.split("\n")
            lines[-1] = "" if first == "clear" else lines[-1] + first
            lines += rest
        return lines


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reporting, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


def bar(filled: int) -> str:
    return "━" * filled + " " * (24 - filled)


@pytest.mark.usefixtures("wide")
def test_a_bar_on_a_terminal(clock: Clock) -> None:
    terminal = Terminal()
    reporter = Reporter(terminal)
    reporter.stage(1, "sample")
    assert terminal.screen() == [""], "the bar says which stage it is"
    progress = reporter.begin("round 1 sample", 96, 48, "prompts")
    assert terminal.screen() == [bar(12) + " round 1 sample: 48/96 prompts, 0.0 s"]
    clock.seconds += 12
    progress.advance(24, "loss 0.5")
    # what was adopted was not done in these seconds
    assert terminal.screen() == [bar(18) + " round 1 sample: 72/96 prompts, 2.0/s, 12 s left, loss 0.5"]
    reporter.say("a line for people")
    assert terminal.screen() == ["a line for people", ""]
    clock.seconds += 12
    progress.advance(24)
    assert terminal.screen()[1] == bar(24) + " round 1 sample: 96/96 prompts, 2.0/s, 24.0 s"
    progress.end()
    assert terminal.screen() == ["a line for people", "round 1 sample: 96/96 prompts, 2.0/s, 24.0 s", ""]


def test_a_bar_never_wraps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    reporter = Reporter(terminal)
    progress = reporter.begin("round 12 evaluate, reward", 100_000, 0, "responses")
    for _ in range(50):
        clock.seconds += 3
        progress.advance(2000, "a note that takes some room")
        assert len(terminal.screen()[-1]) < 40
    progress.end()
    assert len(terminal.screen()) == 2


@pytest.mark.usefixtures("wide")
def test_work_of_no_units(clock: Clock) -> None:
    for stream in (Terminal(), io.StringIO()):
        reporter = Reporter(stream)
        progress = reporter.begin("round 0 evaluate, sampled", 0, 0, "prompts")
        progress.end()
    terminal = Terminal()
    Reporter(terminal).begin("nothing", 0, 0, "prompts")
    assert terminal.screen() == [bar(24) + " nothing: 0/0 prompts, 0.0 s"]


def test_a_line_a_minute_without_a_terminal(clock: Clock) -> None:
    people = io.StringIO()
    reporter = Reporter(people)
    reporter.stage(1, "sample")
    progress = reporter.begin("round 1 sample", 600, 0, "prompts")
    for _ in range(200):
        clock.seconds += 1
        progress.advance(2)
    progress.end()
    assert LINE_EVERY == 60
    assert people.getvalue().splitlines() == [
        "round 1 sample",
        "round 1 sample: 120/600 prompts, 2.0/s, 240 s left",
        "round 1 sample: 240/600 prompts, 2.0/s, 180 s left",
        "round 1 sample: 360/600 prompts, 2.0/s, 120 s left",
    ]
    # a piece of work begins a minute of its own
    progress = reporter.begin("round 1 score", 600, 0, "responses")
    clock.seconds += 59
    progress.advance(500)
    assert "score" not in people.getvalue()
    clock.seconds += 1
    progress.advance(100)
    assert people.getvalue().splitlines()[-1] == "round 1 score: 600/600 responses, 10.0/s, 60.0 s"
    assert people.getvalue().isprintable() or set(filter(str.isspace, people.getvalue())) == {"\n", " "}
    assert "\x1b" not in people.getvalue()
    assert "\r" not in people.getvalue()


def test_log_and_events(clock: Clock, tmp_path: Path) -> None:
    people = io.StringIO()
    reporter = Reporter(people)
    reporter.say("before the files are there")
    reporter.log("nowhere")
    reporter.event("nowhere")
    reporter.open_log(tmp_path / "log.txt", tmp_path / "events.jsonl")
    reporter.stage(2, "train")
    progress = reporter.begin("round 2 train", 2, 0, "steps")
    clock.seconds += 4
    progress.advance(1, "loss 0.6931")
    reporter.say('a message\nof two lines, "quoted", \x1b[31m and 🏳️‍🌈')
    progress.advance(1, "loss 0.5")
    # line by line: what a killed driver said last is there
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(event.pop("time").endswith("Z") for event in events)
    assert events == [
        {"event": "stage", "round": 2, "stage": "train"},
        {"event": "progress", "title": "round 2 train", "done": 1, "total": 2},
        {"event": "message", "text": 'a message\nof two lines, "quoted", \x1b[31m and 🏳️‍🌈'},
        {"event": "progress", "title": "round 2 train", "done": 2, "total": 2},
    ]
    progress.end()
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "before the files" not in log
    assert "nowhere" not in log
    assert log.splitlines()[0].endswith("Z round 2 train begins")
    assert log.splitlines()[-1].endswith("Z round 2 train: 2/2 steps, 0.5/s, 4.0 s, loss 0.5")
    # a second attempt of the same process writes on
    reporter.open_log(tmp_path / "log.txt", tmp_path / "events.jsonl")
    reporter.say("once more")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").startswith(log)


@pytest.mark.parametrize("terminal", [Terminal, io.StringIO])
def test_quiet_says_nothing_and_logs_all(clock: Clock, tmp_path: Path, terminal: type[io.StringIO]) -> None:
    people = terminal()
    reporter = Reporter(people, quiet=True)
    reporter.open_log(tmp_path / "log.txt", tmp_path / "events.jsonl")
    reporter.stage(1, "sample")
    progress = reporter.begin("round 1 sample", 2, 0, "prompts")
    clock.seconds += 100
    progress.advance(2)
    reporter.say("hello")
    progress.end()
    assert people.getvalue() == ""
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert [line.split("Z ", 1)[1] for line in log.splitlines()] == [
        "round 1 sample begins",
        "hello",
        "round 1 sample: 2/2 prompts, 0.0/s, 100.0 s",
    ]


def test_speaking_to_another_stream_for_a_while() -> None:
    usual, other = io.StringIO(), io.StringIO()
    reporter = Reporter(usual)
    with pytest.raises(KeyError), reporter.speaking_to(other):
        reporter.say("one")
        raise KeyError
    reporter.say("two")
    assert (other.getvalue(), usual.getvalue()) == ("one\n", "two\n")


def child(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process whose stdout and stderr are its descriptors 1 and 2 (those of a test are pytest's)."""
    head = """
import os, subprocess, sys
from pathlib import Path
from selfplay.execution.progress import libraries_to
log = Path("libraries.log")
num_open = lambda: len(os.listdir("/dev/fd"))
before = num_open()
"""
    command = [sys.executable, "-c", head + script]
    # as a user's process is: with buffers that have to be emptied at the right moments
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False)


def test_what_libraries_write_goes_to_a_file(tmp_path: Path) -> None:
    done = child(
        tmp_path,
        r"""
print("before", end=" ")  # in a buffer still
with libraries_to(log) as people:
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    print("stdout")
    print("stderr", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('a child')"])
    people.write("for people: \U0001f3f3 \udc80\n")
    print("last words", end="")
print("after")
print("after", file=sys.stderr)
print(num_open() == before)
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "before after\nTrue\n"
    assert done.stderr == "for people: \U0001f3f3 ?\nafter\n"
    lines = (tmp_path / "libraries.log").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["a child", "descriptor 1", "descriptor 2", "last words", "stderr", "stdout"]


def test_an_error_gives_the_descriptors_back(tmp_path: Path) -> None:
    done = child(
        tmp_path,
        r"""
log.write_text("an earlier line\n")
try:
    with libraries_to(log):
        print("last words", end="")
        raise KeyboardInterrupt
except KeyboardInterrupt:
    os.write(1, b"out again\n")
    os.write(2, b"err again\n")
    print(num_open() == before)
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "out again\nTrue\n", "err again\n")
    assert (tmp_path / "libraries.log").read_text() == "an earlier line\nlast words"


class Gone(io.StringIO):
    """A reader that went away, or a slow one to whom a line was on its way when a signal came."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.asked = error, 0

    def write(self, text: str) -> int:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "log"),
    [
        (
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            "the output stream was closed (Broken pipe); the run continues",
        ),
        (RuntimeError("reentrant call inside <_io.BufferedWriter>"), "not shown: reentrant call"),
    ],
)
def test_no_run_stops_because_nobody_listens(tmp_path: Path, error: Exception, log: str) -> None:
    people = Gone(error)
    reporter = Reporter(people)
    reporter.open_log(tmp_path / "log.txt", tmp_path / "events.jsonl")
    reporter.stage(1, "sample")
    progress = reporter.begin("round 1 sample", 2, 0, "prompts")
    progress.advance(2)
    progress.end()
    reporter.say("a line")
    reporter.say("another")
    written = (tmp_path / "log.txt").read_text()
    assert log in written and "another" in written
    # somebody who went away does not come back; a signal passes
    assert people.asked == (1 if isinstance(error, OSError) else 3)
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 4


def test_what_cannot_be_said_at_the_end_does_not_change_how_a_process_ends(tmp_path: Path) -> None:
    """`2>&1 | head`: stderr is a pipe that nobody reads."""
    code = """
import sys
from pathlib import Path
from selfplay.execution.progress import Reporter, libraries_to
reporter = Reporter()
reporter.say("before")
with libraries_to(Path(sys.argv[1])) as people, reporter.speaking_to(people):
    reporter.say("during")
    print("a library")
reporter.say("after")
from selfplay.cli.main import guarded
from selfplay.core.errors import LockedError
def command():
    raise LockedError("somebody else's", "Wait.")
guarded(command)()
"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", code, str(tmp_path / "libraries.log")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stderr=writing, env=env, check=False)
    os.close(writing)
    assert done.returncode == 3
    assert "a library" in (tmp_path / "libraries.log").read_text()
