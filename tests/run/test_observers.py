"""Observers are told in order; one that fails is reported and stops nothing, unless it must not fail."""

from __future__ import annotations

import pytest

from selfplay.core.observer import Observer
from selfplay.run.observers import Observers
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
