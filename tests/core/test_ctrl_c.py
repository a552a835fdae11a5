"""A Ctrl-C that was lost before the work begins stops it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from selfplay.core import ctrl_c
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag, signals


@pytest.fixture(autouse=True)
def handler_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ctrl_c, "_presses", 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("presses", [0, 1])
def test_a_lost_ctrl_c_stops_the_work(presses: int):
    ctrl_c.remember_ctrl_c()
    for _ in range(presses):
        with pytest.raises(KeyboardInterrupt):  # as code that catches everything would
            signal.raise_signal(signal.SIGINT)
    stop = StopFlag()
    with signals(stop, 1.0, Reporter(quiet=True)):
        assert stop.exit_code == (130 if presses else None)


def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctrl_c.remember_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
