"""Observers are told in order; one that fails is reported and stops nothing, unless it must not fail."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from selfplay.core.errors import Interrupted, SelfplayError
from selfplay.core.observer import Observer
from selfplay.run.attempt import attempt
from selfplay.run.observers import Observers
from tests.helpers.make_run import make_run
from tests.helpers.observing import Noting, Saying


class Failing(Observer):
    def on_round(self, round_number: int) -> None:
        raise ConnectionError("the service is down")


class Required(Failing):
    required = True


def test_an_observer_that_fails_is_reported_and_the_others_are_told() -> None:
    noting, reporter = Noting(), Saying()
    observers = Observers([Failing(), noting], reporter)
    observers.stage(1, "sample")
    observers.round(1)
    observers.end()
    assert noting.told == ["stage 1 sample", "round 1", "end"]
    assert reporter.said == ["Failing failed (ConnectionError: the service is down); the run continues"]


def test_an_error_in_a_required_one_is_raised() -> None:
    with pytest.raises(ConnectionError):
        Observers([Required()], Saying()).round(1)


def test_the_last_call_comes_whatever_happened_and_closes_all(tmp_path: Path) -> None:
    """After a complete attempt, one that failed, and one that was stopped at once; also where an observer fails to close."""

    class Closing(Noting):
        def on_close(self) -> None:
            self.told.append("close")

    class FailsToClose(Observer):
        def on_close(self) -> None:
            raise ConnectionError("the service is down")

    for error, expected in ((None, None), (ValueError("x"), SelfplayError), (KeyboardInterrupt(), Interrupted)):
        store = make_run(tmp_path / type(error).__name__, rounds=1, stop=(1, "sample"), outcome=None)
        store.layout.lock.touch()
        noting, reporter = Closing(), Saying()
        observers = Observers([FailsToClose(), noting], reporter)
        with (
            contextlib.nullcontext() if expected is None else pytest.raises(expected),
            attempt(store, {}, reporter, 0.0, None, "again") as current,
        ):
            current.on_end, current.on_close = observers.end, observers.close
            if error is not None:
                raise error
        assert noting.told[-1] == "close" and noting.told.count("close") == 1
        assert "FailsToClose failed (ConnectionError: the service is down); the run continues" in reporter.said
