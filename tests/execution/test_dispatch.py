"""Windows, order and deaths of calls, on simulated workers that finish in any order."""

from __future__ import annotations

import random

import pytest

from selfplay.core.pool import Call
from selfplay.execution.dispatch import Dispatch


class Simulation:
    """Workers that finish what they hold in a random order; a call in `poison` kills its worker once it runs."""

    def __init__(
        self, seed: int, num_calls: int, num_workers: int, window: int, concurrent: bool, poison: set[int]
    ) -> None:
        self.random = random.Random(seed)
        self.window, self.concurrent, self.poison = window, concurrent, poison
        calls = (Call(key, (), 2) for key in range(num_calls))
        self.dispatch = Dispatch(calls, num_workers, window, concurrent=concurrent)
        self.held: list[list[Call]] = [[] for _ in range(num_workers)]
        self.sent: list[int] = []
        self.results: list[int] = []
        self.given_up: dict[int, int] = {}
        self.deaths = 0

    def fill(self, worker: int) -> None:
        while (call := self.dispatch.next_for(worker)) is not None:
            self.held[worker].append(call)
            self.sent.append(call.key)
            assert len(self.held[worker]) <= self.window

    def run(self) -> None:
        for worker in range(len(self.held)):
            self.fill(worker)
        while busy := [worker for worker, held in enumerate(self.held) if held]:
            worker = self.random.choice(busy)
            held = self.held[worker]
            call = self.random.choice(held) if self.concurrent else held[0]
            if call.key in self.poison:
                # what ended just before may have answered, or not
                self.deaths += 1
                self.held[worker] = []
                given_up, num_crashes = self.dispatch.lost(worker, held)
                if given_up is not None:
                    self.given_up[given_up.key] = num_crashes
            else:
                held.remove(call)
                self.results.append(call.key)
                self.dispatch.done(worker, call)
            for each in range(len(self.held)):
                self.fill(each)


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("num_workers", [1, 3, 8])
def test_every_call_ends_once_and_only_the_one_that_kills_is_given_up(num_workers: int, concurrent: bool) -> None:
    for seed in range(60):
        window = random.Random(seed).choice([1, 2, 5, 20])
        poison = set(random.Random(seed).sample(range(40), seed % 5))
        simulation = Simulation(seed, 40, num_workers, window, concurrent, poison)
        simulation.run()
        assert not simulation.dispatch.has_suspects
        assert sorted(simulation.results) == sorted(set(range(40)) - poison)
        assert simulation.given_up.keys() == poison
        # in company, in a group, alone: no more than three workers die of one call, and never one of a single accident
        assert all(2 <= num_crashes <= 3 for num_crashes in simulation.given_up.values())
        assert len(poison) <= simulation.deaths <= 3 * len(poison)


def test_calls_are_sent_in_order_and_windows_are_full() -> None:
    dispatch = Dispatch((Call(key, ()) for key in range(10)), 2, 3, concurrent=True)
    first = [dispatch.next_for(worker) for worker in (0, 1, 0, 1, 0, 1, 0)]
    assert [call.key if call else None for call in first] == [0, 1, 2, 3, 4, 5, None]
    assert first[0] is not None
    dispatch.done(0, first[0])
    again = dispatch.next_for(0)
    assert again is not None and again.key == 6


def test_suspects_run_alone_while_the_other_workers_continue() -> None:
    dispatch = Dispatch((Call(key, (), 2) for key in range(10)), 2, 2, concurrent=True)
    lost = [call for call in (dispatch.next_for(0), dispatch.next_for(0)) if call is not None]
    assert dispatch.next_for(1) is not None
    assert dispatch.lost(0, lost) == (None, 0)
    assert dispatch.has_suspects
    suspect = dispatch.next_for(0)
    assert suspect == lost[0] and dispatch.next_for(0) is None
    beside = dispatch.next_for(1)
    assert beside is not None and beside.key == 3
    assert dispatch.lost(0, [lost[0]]) == (lost[0], 2)
    alone = dispatch.next_for(0)
    assert alone == lost[1] and dispatch.next_for(0) is None
    dispatch.done(0, lost[1])
    assert dispatch.next_for(0) is not None and dispatch.next_for(0) is not None


def test_a_queue_without_a_further_call_yet_is_asked_again() -> None:
    dispatch = Dispatch(iter([Call(0, ()), None, Call(1, ()), None]), 2, 2, concurrent=True)
    assert dispatch.next_for(0) == Call(0, ())
    assert dispatch.next_for(1) is None and dispatch.is_dry and dispatch.has_more
    assert dispatch.next_for(1) == Call(1, ()) and not dispatch.is_dry
    assert dispatch.next_for(1) is None and dispatch.is_dry
    assert dispatch.next_for(1) is None and not dispatch.is_dry and not dispatch.has_more
