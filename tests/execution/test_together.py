"""Pieces of work that run at the same time."""

from __future__ import annotations

import threading

import pytest

from selfplay.core.errors import BackendError, Interrupted
from selfplay.execution.signals import StopFlag
from selfplay.execution.together import run_together


def test_the_first_error_stops_the_others_and_is_raised() -> None:
    asked, said = StopFlag(), list[str]()
    stop = StopFlag(asked)
    begun, is_stopped_at_end = threading.Event(), dict[str, bool]()

    def fails() -> None:
        assert begun.wait(30)
        raise BackendError("broken", "Mend it.")

    def goes_on() -> None:
        begun.set()
        while stop.exit_code is None:
            threading.Event().wait(0.01)
        stop.check()

    with pytest.raises(BackendError, match="broken"):
        run_together(
            {"a": goes_on, "b": fails}, stop, said.append,
            lambda name: is_stopped_at_end.update({name: stop.exit_code is not None}),
        )  # fmt: skip
    assert said == ["b"] and is_stopped_at_end == {"a": True, "b": True}
    # the flag of the command is not that of its parts
    assert asked.exit_code is None


def test_a_stop_that_is_asked_for_is_raised() -> None:
    asked = StopFlag()
    asked.exit_code = 130
    stop, said = StopFlag(asked), list[str]()
    with pytest.raises(Interrupted) as stopped:
        run_together({"a": stop.check, "b": stop.check}, stop, said.append)
    assert stopped.value.exit_code == 130 and said == []


def test_no_thread_writes_after_a_stop_at_once() -> None:
    asked = StopFlag()
    StopFlag(StopFlag(asked)).at_once()
    with pytest.raises(Interrupted, match="stopped at once"):
        asked.check_at_once()
