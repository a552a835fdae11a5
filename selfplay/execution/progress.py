"""What a run says while it works: to people on stderr (bars on a terminal, a line a minute without one) and to its log."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from selfplay.core.escape import safe_text
from selfplay.core.redaction import without_secrets
from selfplay.store.durable import translating_errors
from selfplay.store.run import now

LINE_EVERY = 60.0
# the line that a bar is drawn on
CLEAR = "\r\x1b[2K"


class Reporter:
    """See stages.context.Reporter. Without a log file (before an attempt begins) it only speaks to people."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty() and not quiet
        self._log: IO[bytes] | None = None
        self._events: IO[bytes] | None = None
        self._unwritable = self._unheard = ""
        self._title = ""
        self._unit = ""
        self._total = self._done = self._adopted = 0
        self._started = self._shown = 0.0
        self._note = ""

    def open_log(self, log: Path, events: Path) -> None:
        """Write to an attempt's log from here on. Raises SelfplayError where it cannot be made."""
        # append-only diagnostics, not a record anything depends on; unbuffered, so that a line that failed is not tried for ever
        with translating_errors(log):
            self._log = open(log, "ab", buffering=0)  # noqa: SIM115
        with translating_errors(events):
            self._events = open(events, "ab", buffering=0)  # noqa: SIM115

    @contextlib.contextmanager
    def speaking_to(self, stream: TextIO) -> Iterator[None]:
        """Speak on another stream for a while (the real stderr, while the process's own goes to a log)."""
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
        self._append(self._events, json.dumps({"time": now(), "event": kind, **fields}) + "\n")

    def _append(self, file: IO[bytes] | None, line: str) -> None:
        """A line that the disk does not take is left out: no run stops for want of its log. People are told once."""
        if file is None:
            return
        try:
            file.write(line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if not self._unwritable:
                self._tell(f"lines are missing in the attempt's log ({error.strerror}); the run goes on\n")
            self._unwritable = str(error.strerror)

    def _tell(self, text: str) -> None:
        """To people. No run stops because they went away (a closed terminal, the end of a pipe): the log has the lines."""
        if self._quiet or self._unheard:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            self._unheard = str(error.strerror)
            self.log(f"nobody hears any more what is said ({self._unheard}); the run goes on")
        except RuntimeError as error:
            # a signal came while a line was on its way to a slow reader: what its handler says cannot be put in between
            self.log(f"not said: {error}")

    def say(self, message: str) -> None:
        """One line for people, and in the log."""
        self.event("message", text=without_secrets(message))  # as it is: JSON escapes it
        message = _shown(message)
        self.log(message)
        self._tell(f"{CLEAR if self._terminal else ''}{message}\n")

    def stage(self, round_number: int, stage: str) -> None:
        """A stage begins."""
        self.log(f"round {round_number} {stage} begins")
        self.event("stage", round=round_number, stage=stage)
        if not self._terminal:
            self._tell(f"round {round_number} {stage}\n")

    def begin(self, title: str, total: int, done: int, unit: str) -> None:
        """See stages.context.Reporter."""
        self._title, self._total, self._done, self._unit, self._note = _shown(title), total, done, unit, ""
        self._adopted = done
        self._started = self._shown = time.monotonic()
        self._draw()

    def advance(self, amount: int, note: str = "") -> None:
        """See stages.context.Reporter."""
        self._done += amount
        self._note = note
        self.event("progress", title=self._title, done=self._done, total=self._total)
        if self._terminal:
            self._draw()
        elif time.monotonic() - self._shown >= LINE_EVERY:
            self._shown = time.monotonic()
            self._tell(self._line() + "\n")

    def end(self) -> None:
        """See stages.context.Reporter."""
        self.log(self._line())
        if self._terminal:
            self._tell(f"{CLEAR}{self._line()}\n")
        self._title = ""

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._adopted) / seconds
        left = (self._total - self._done) / rate if rate > 0 and self._done < self._total else 0
        parts = [f"{self._title}: {self._done}/{self._total} {self._unit}"]
        if rate > 0:
            parts.append(f"{rate:.1f}/s")
        parts.append(f"{left:.0f} s left" if left else f"{seconds:.1f} s")
        if self._note:
            parts.append(_shown(self._note))
        return ", ".join(parts)

    def _draw(self) -> None:
        if self._terminal:
            width = 24
            filled = round(width * self._done / self._total) if self._total else width
            line = f"{'#' * filled}{'.' * (width - filled)} {self._line()}"
            # a wrapped line could not be cleared: only its last row would go
            columns = shutil.get_terminal_size().columns
            self._tell(f"{CLEAR}{line[: columns - 1]}")


def _shown(text: str) -> str:
    """What a message may hold of texts that others wrote, harmless on a screen and without secrets."""
    return safe_text(without_secrets(text), lines=True)


@contextlib.contextmanager
def libraries_to(log: Path) -> Iterator[TextIO]:
    """File descriptors 1 and 2 go to `log` while this is open (libraries, Ray's own threads and C code write there); yields a
    stream on the real stderr for people."""
    _flush()
    with translating_errors(log):
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    real_out, real_err = os.dup(1), os.dup(2)
    people = os.fdopen(os.dup(real_err), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        yield people
    finally:
        _flush()  # on a full disk what libraries said is lost
        os.dup2(real_out, 1)
        os.dup2(real_err, 2)
        for descriptor in (real_out, real_err, target):
            os.close(descriptor)
        with contextlib.suppress(OSError):  # who read went away
            people.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
