"""A time limit ends a loop, in any thread, and leaves nothing behind."""

import threading
import time

import pytest

from selfplay.inputs.models import time_limit as module
from selfplay.inputs.models.time_limit import OutOfTime, time_limit


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_loop_is_ended():
    started = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.1):
        spin(30)
    assert time.monotonic() - started < 5


def test_what_ends_in_time_is_left_alone():
    for _ in range(1000):
        with time_limit(30):
            pass
    with pytest.raises(ValueError, match="its own"), time_limit(30):
        raise ValueError("its own")
    assert not module._deadlines


def test_late_code_that_ended_by_itself_raises_once():
    with pytest.raises(OutOfTime), time_limit(0.01):
        time.sleep(1)  # one call into C: the exception arrives behind it
    spin(0.1)


def test_each_thread_has_its_own_limit():
    ended: dict[str, bool] = {}

    def work(name: str, seconds: float) -> None:
        try:
            with time_limit(seconds):
                spin(1)
            ended[name] = True
        except OutOfTime:
            ended[name] = False

    threads = [threading.Thread(target=work, args=one) for one in (("short", 0.1), ("long", 60))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == {"short": False, "long": True}
