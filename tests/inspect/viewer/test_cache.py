"""What is kept in memory stays within its bound."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from selfplay.inspect.viewer.cache import Cache


def test_the_oldest_go() -> None:
    cache = Cache(10_000)
    made: list[int] = []

    def make(number: int) -> np.ndarray:  # type: ignore[type-arg]
        made.append(number)
        return np.zeros(500, dtype=np.float64)

    for number in (1, 2, 1, 3, 1):
        cache.get(number, lambda number=number: make(number))
    assert made == [1, 2, 3]
    assert cache.num_bytes <= 10_000
    assert cache.has(1)
    assert not cache.has(2)


def test_what_is_too_large_is_given_and_not_kept() -> None:
    cache = Cache(1000)
    assert len(cache.get("x", lambda: np.zeros(1000))) == 1000
    assert not cache.has("x")
    assert cache.num_bytes == 0


def test_one_thread_makes_it_and_a_failure_is_not_kept() -> None:
    cache, made, start = Cache(), [], threading.Barrier(4)

    def ask() -> None:
        start.wait()
        cache.get("x", lambda: made.append(1) or np.zeros(4))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    with pytest.raises(ZeroDivisionError):
        cache.get("y", lambda: 1 // 0)
    assert cache.get("y", lambda: np.ones(1))[0] == 1
