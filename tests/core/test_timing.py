"""Where the time of a stage goes: parts of a thread, calls of workers that overlap, and totals that add up."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from selfplay.core import timing
from selfplay.core.timing import PARTS, PartSeconds, Span, Timed, collecting, loading, part, record, unwrap


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def time(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(time=clock.time, perf_counter=clock.time))
    return clock


def total(spent: PartSeconds) -> float:
    return sum(getattr(spent, name) for name in PARTS)


def test_parts_inside_others_are_counted_once_and_all_together_are_the_stage(clock: Clock) -> None:
    found = collecting()
    clock.seconds += 1
    with part("waiting"):
        clock.seconds += 2
        with part("loading"):
            clock.seconds += 4
    with part("writing"):
        clock.seconds += 8
    with part("loading"), part("waiting"):
        clock.seconds += 32
    clock.seconds += 16
    spent = found.seconds()["driver"]
    assert spent == PartSeconds(waiting=2, loading=36, computing=17, writing=8)
    assert [(span.part, span.end - span.begin) for span in found.spans()] == [
        ("loading", 4), ("waiting", 6), ("writing", 8), ("loading", 32),
    ]  # fmt: skip


def test_spans_of_a_worker_that_overlap_are_merged_whatever_the_order(clock: Clock) -> None:
    found = collecting()
    calls = [(1005, 1006), (1001, 1002), (1001.5, 1004), (1003, 1005.5)]
    for begin, end in calls:
        unwrap(Timed(None, (Span("driver", "computing", begin, end),)), "sampler-0")
    clock.seconds += 10
    assert found.spans() == [Span("sampler-0", "computing", 1001, 1006)]
    assert found.seconds()["sampler-0"] == PartSeconds(computing=5, waiting=5)


def test_loading_inside_a_call_is_loading_and_what_was_before_the_stage_does_not_count(clock: Clock) -> None:
    found = collecting()
    spans = (Span("driver", "loading", 1001, 1003), Span("driver", "computing", 1000.5, 1006))
    assert unwrap(Timed("rows", spans), "logprobs-0") == "rows"
    found.add("trainer-0", [Span("driver", "loading", 990, 1001)])
    clock.seconds += 8
    seconds = found.seconds()
    assert seconds["logprobs-0"] == PartSeconds(loading=2, computing=3.5, waiting=2.5)
    assert seconds["trainer-0"] == PartSeconds(loading=1, waiting=7)
    assert {total(spent) for spent in seconds.values()} == {8}


def test_the_records_of_threads_are_their_own() -> None:
    mine, others = collecting(), []

    def work() -> None:
        with part("writing"):  # no record yet: nothing is kept
            time.sleep(0.001)
        others.append(collecting())
        with part("waiting"):
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert record() is mine and not mine.spans()
    assert [span.part for span in others[0].spans()] == ["waiting"]


def test_what_loads_is_announced_and_how_long_it_took(clock: Clock) -> None:
    said: list[tuple[str, float | None]] = []
    found = collecting(lambda what, seconds: said.append((what, seconds)))
    with loading("Ray"):
        clock.seconds += 3
    assert said == [("Ray", None), ("Ray", 3.0)]
    assert found.seconds()["driver"] == PartSeconds(loading=3)


def test_a_result_that_no_worker_timed_is_passed_on() -> None:
    assert unwrap([1, 2], "scorer-0") == [1, 2]


def test_what_another_thread_did_is_included(clock: Clock) -> None:
    found, other = collecting(), timing.Record()
    with part("waiting"):
        with other.part("writing"):
            clock.seconds += 2
        other.add("gold-0", [Span("", "computing", 1000.0, 1001.0)])
    found.include(other, "driver, gold")
    seconds = found.seconds()
    assert seconds["driver"].waiting == 2 and seconds["driver, gold"].writing == 2
    assert (seconds["gold-0"].computing, seconds["gold-0"].waiting) == (1, 1)
