"""How a command is stopped: Ctrl-C and SIGTERM ask for its next safe point; a second Ctrl-C, or SIGTERM's deadline, ends it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from selfplay.core.ctrl_c import ctrl_c_was_pressed
from selfplay.core.errors import BackendError, Interrupted, SelfplayError
from selfplay.execution.progress import Reporter

# seconds from SIGTERM's deadline until the process leaves as it is, should the end hang as well
LAST = 3.0
# code of a model, inside of which os._exit raises, may be under way then
_leave_now = os._exit


@contextlib.contextmanager
def signals(stop: StopFlag, grace: float, reporter: Reporter) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: stop at the next safe point. Second Ctrl-C, or SIGTERM's deadline: at once. A Ctrl-C that was lost
    before (see ctrl_c.py) is the first."""

    def interrupt(number: int, frame: Any) -> None:
        if number == signal.SIGALRM:
            signal.signal(signal.SIGALRM, leave)
            raise KeyboardInterrupt
        if number == signal.SIGINT and stop.exit_code is not None:
            raise KeyboardInterrupt
        if number == signal.SIGTERM and stop.exit_code != 143:
            # a library's own handler of SIGTERM may have taken the alarm before it called this one
            signal.signal(signal.SIGALRM, interrupt)
            # armed once: a second SIGTERM must not put it off
            signal.setitimer(signal.ITIMER_REAL, grace, LAST)
        stop.exit_code = 143 if number == signal.SIGTERM else 130
        reporter.say(
            "stopping: the shards in progress are finished and kept (Ctrl-C again stops at once and is as safe)"
        )

    def leave(number: int, frame: Any) -> None:
        # an exception in the middle of ray.shutdown would abort the process; the kernel ends what Ray started
        _leave_now(143)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.signal(number, interrupt) for number in numbers]
    if ctrl_c_was_pressed():
        interrupt(signal.SIGINT, None)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def ended_by_stop(stop: StopFlag, error: SelfplayError) -> Interrupted | None:
    """After a stop was requested, a worker's failure counts as that stop. A signal to all processes ends the workers
    of a joined cluster too (those of a local Ray ignore it). None if it is a real failure."""
    if stop.exit_code is None or not isinstance(error, BackendError):
        return None
    said = error.message.splitlines()[0]
    return Interrupted(
        f"stopped on request before the shards in progress were done ({said}); committed work is kept",
        "`selfplay resume` continues.",
        stop.exit_code,
    )


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM: stages stop at the next safe point. It counts as set when `outer` is: a flag of stages
    that also stop because one of them failed."""

    def __init__(self, outer: StopFlag | None = None) -> None:
        self._exit_code: int | None = None
        self._outer = outer
        self._is_at_once = False

    @property
    def exit_code(self) -> int | None:
        """That of the command; None while no stop was requested."""
        if self._exit_code is None and self._outer is not None:
            return self._outer.exit_code
        return self._exit_code

    @exit_code.setter
    def exit_code(self, value: int) -> None:
        self._exit_code = value

    def at_once(self) -> None:
        """The command ends now: running threads must not write any more."""
        self._is_at_once = True
        if self._outer is not None:
            self._outer.at_once()

    def check_at_once(self) -> None:
        """Raise Interrupted if the command ends now."""
        if self._is_at_once:
            raise Interrupted("stopped at once", "`selfplay resume` continues.", self.exit_code or 130)

    def check(self) -> None:
        """Raise Interrupted if a stop was requested."""
        if self.exit_code is not None:
            raise Interrupted(
                "stopped on request; committed work is kept", "`selfplay resume` continues.", self.exit_code
            )
