"""Progress of a run: on stderr (a bar on a terminal, a line a minute elsewhere), in the attempt's log and in events.jsonl.

`rich` draws the bar, but this module writes it: a live display of rich hides the cursor, which a killed process could not bring
back, and a thread of it would raise where the terminal was closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TextIO

from selfplay.core.escape import escape_terminal
from selfplay.core.redaction import redact
from selfplay.core.timing import PartSeconds
from selfplay.store.durable import translating_errors
from selfplay.store.run import now

LINE_EVERY = 60.0
# what takes as many seconds to load gets a line
LONG_LOADING = 1.0
BAR_WIDTH = 24
# clears the line that a bar is drawn on
CLEAR = "\r\x1b[2K"


class Reporter:
    """See execution.reporter.Reporter. Before `open_log` (no attempt has begun) it writes to the stream only."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty() and not quiet
        self._log: IO[bytes] | None = None
        self._events: IO[bytes] | None = None
        self._unwritable = self._unheard = ""
        # stages that run side by side report from threads of their own; a signal's handler may interrupt the main one
        self._lock = threading.RLock()
        self._open: list[Progress] = []

    def open_log(self, log: Path, events: Path) -> None:
        """Write to an attempt's log from now on. Raises SelfplayError if it cannot be created."""
        # append-only diagnostics that nothing depends on; unbuffered, so that a failed line is not tried again and again
        with translating_errors(log):
            self._log = open(log, "ab", buffering=0)  # noqa: SIM115
        with translating_errors(events):
            self._events = open(events, "ab", buffering=0)  # noqa: SIM115

    @contextlib.contextmanager
    def speaking_to(self, stream: TextIO) -> Iterator[None]:
        """Write to another stream for a while (the real stderr, while the process's own is redirected to a log)."""
        before, self._stream = self._stream, stream
        try:
            yield
        finally:
            self._stream = before

    def log(self, text: str) -> None:
        """To the log only."""
        self._append(self._log, f"{now()} {_shown(text).rstrip()}\n")

    def event(self, kind: str, **fields: object) -> None:
        """One line of events.jsonl."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._append(self._events, json.dumps({"time": moment, "event": kind, **fields}) + "\n")

    def _append(self, file: IO[bytes] | None, line: str) -> None:
        """Append a line. If writing fails, the line is lost, the user is told once, and the run continues."""
        if file is None:
            return
        try:
            file.write(line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if not self._unwritable:
                self._tell(f"lines are missing in the attempt's log ({error.strerror}); the run continues\n")
            self._unwritable = str(error.strerror)

    def _tell(self, text: str) -> None:
        """Write to the stream. A run does not stop because the terminal or pipe was closed: the log has the lines."""
        if self._quiet or self._unheard:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            self._unheard = str(error.strerror)
            self.log(f"the output stream was closed ({self._unheard}); the run continues")
        except RuntimeError as error:
            # a signal interrupted a write to a slow reader: its handler cannot write in between
            self.log(f"not shown: {error}")

    def say(self, message: str) -> None:
        """One line on the stream and in the log."""
        self.event("message", text=redact(message))  # not escaped: JSON does that
        message = _shown(message)
        with self._lock:
            self.log(message)
            self._tell(f"{CLEAR if self._terminal else ''}{message}\n")

    def stage(self, round_number: int, stage: str) -> None:
        """A stage begins."""
        self.log(f"round {round_number} {stage} begins")
        self.event("stage", round=round_number, stage=stage)
        with self._lock:
            if not self._terminal:
                self._tell(f"round {round_number} {stage}\n")

    def loading(self, what: str, seconds: float | None) -> None:
        """Something is loaded that the run waits for; then again with the seconds, when it is there."""
        if seconds is None:
            self.log(f"is waiting for {what} to load")
            self.event("loading", what=what)
            with self._lock:
                if self._terminal:
                    self._tell(f"{CLEAR}loading: {_shown(what)}")
            return
        self.event("loaded", what=what, seconds=round(seconds, 3))
        if seconds >= LONG_LOADING:
            self.say(f"loaded: {what} ({seconds:.1f} s)")
        elif self._terminal:
            with self._lock:
                self._tell(CLEAR)

    def committed(self, round_number: int, stage: str, parts: Mapping[str, PartSeconds]) -> None:
        """A stage is committed; `parts` says where its time went, by who spent it."""
        timing = {who: asdict(spent) for who, spent in parts.items()}
        self.event("committed", round=round_number, stage=stage, timing=timing)

    def begin(self, title: str, total: int, done: int, unit: str) -> Progress:
        """See execution.reporter.Reporter."""
        with self._lock:
            progress = Progress(self, _shown(title), total, done, unit)
            self._open.append(progress)
            self._draw()
        return progress

    def changed(self, progress: Progress, *, is_over: bool = False) -> None:
        """A piece of work has advanced, or is over. `Progress` calls it."""
        with self._lock:
            if is_over:
                self._open.remove(progress)
                self.log(progress.line())
                if self._terminal:
                    self._tell(f"{CLEAR}{progress.line()}\n")
            elif not self._terminal and progress.is_due():
                self._tell(progress.line() + "\n")
            self._draw()

    def _draw(self) -> None:
        if self._terminal and self._open:
            line = " | ".join(progress.line() for progress in self._open)
            done, total = self._open[0].done, self._open[0].total
            self._tell(f"{CLEAR}{_bar(self._stream, done, total, line)}")


class Progress:
    """See execution.reporter.Progress."""

    def __init__(self, reporter: Reporter, title: str, total: int, done: int, unit: str) -> None:
        self._reporter, self.title, self.total, self._unit = reporter, title, total, unit
        self.done = self._adopted = done
        self._started = self._shown = time.monotonic()
        self._note = ""

    def advance(self, amount: int, note: str = "") -> None:
        """See execution.reporter.Progress."""
        self.done += amount
        self.total = max(self.total, self.done)
        self._note = note
        self._reporter.event("progress", title=self.title, done=self.done, total=self.total)
        self._reporter.changed(self)

    def adopt(self, amount: int) -> None:
        """See execution.reporter.Progress."""
        self.done += amount
        self._adopted += amount
        self.total = max(self.total, self.done)
        self._reporter.changed(self)

    def end(self) -> None:
        """See execution.reporter.Progress."""
        self._reporter.changed(self, is_over=True)

    def is_due(self) -> bool:
        """Whether it is time for a line where there is no terminal; it is not due again for `LINE_EVERY` seconds."""
        if time.monotonic() - self._shown < LINE_EVERY:
            return False
        self._shown = time.monotonic()
        return True

    def line(self) -> str:
        """How far it is, at which rate, and how long it may still take."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._adopted) / seconds
        left = (self.total - self.done) / rate if rate > 0 and self.done < self.total else 0
        parts = [f"{self.title}: {self.done}/{self.total} {self._unit}"]
        if rate > 0:
            parts.append(f"{rate:.1f}/s")
        parts.append(f"{left:.0f} s left" if left else f"{seconds:.1f} s")
        if self._note:
            parts.append(_shown(self._note))
        return ", ".join(parts)


def _bar(stream: TextIO, done: int, total: int, line: str) -> str:
    """A bar and a line beside it, cut to the width of the terminal: of a wrapped line only the last row could be cleared."""
    from rich.console import Console  # only where there is a terminal
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, force_terminal=True)
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total or 1, completed=done if total else 1, width=BAR_WIDTH)
    grid.add_row(bar, Text(line, no_wrap=True, overflow="ellipsis"))
    with console.capture() as drawn:
        console.print(grid, width=console.width - 1)
    return drawn.get().rstrip()


def _shown(text: str) -> str:
    """A message made safe for a terminal, and without secrets."""
    return escape_terminal(redact(text), lines=True)


@contextlib.contextmanager
def libraries_to(log: Path) -> Iterator[TextIO]:
    """Redirect file descriptors 1 and 2 to `log` (libraries, Ray's threads and C code write there); yields a stream on the real
    stderr for the user."""
    _flush()
    with translating_errors(log):
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    real_out, real_err = os.dup(1), os.dup(2)
    people = os.fdopen(os.dup(real_err), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        yield people
    finally:
        _flush()  # on a full disk the output of libraries is lost
        os.dup2(real_out, 1)
        os.dup2(real_err, 2)
        for descriptor in (real_out, real_err, target):
            os.close(descriptor)
        with contextlib.suppress(OSError):  # the reader is gone
            people.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
