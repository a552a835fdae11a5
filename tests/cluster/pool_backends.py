"""Backends for the tests of the Ray pool: workers import them by name in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from selfplay.errors import ModelError, WeightChangeError


class Counter:
    """Answers with what it was told; `lives` is a file to which every process that made a backend adds its id."""

    def __init__(self, lives: str = "") -> None:
        self.told = "nothing"
        if lives:
            with open(lives, "a") as file:
                file.write(f"{os.getpid()}\n")

    def add(self, first: int, second: int) -> int:
        return first + second

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def tell(self, what: str) -> tuple[int, str]:
        """Its process and what it had been told before."""
        before, self.told = self.told, what
        return os.getpid(), before

    def what(self) -> tuple[int, str]:
        return os.getpid(), self.told

    def die_once(self, marker: str, number: int) -> tuple[int, str]:
        """The first process to come here dies; later calls answer with what their process was told."""
        if not Path(marker).exists():
            Path(marker).touch()
            print("these are my last words", file=sys.stderr, flush=True)
            os._exit(1)
        return number, self.told

    def die(self) -> None:
        print("these are my last words", file=sys.stderr, flush=True)
        os._exit(1)

    def fail(self, kind: str) -> None:
        if kind == "model":
            raise ModelError("no such model", "Look for it.")
        if kind == "weights":
            raise WeightChangeError("canary missed", "Rebuild.")
        raise KeyError("not ours")

    def count(self, up_to: int, progress: Callable[[int], None]) -> str:
        for number in range(up_to):
            progress(number)
        return "done"

    def count_then_die(self, up_to: int, progress: Callable[[int], None]) -> None:
        for number in range(up_to):
            progress(number)
        time.sleep(0.5)
        self.die()

    def count_then_fail(self, progress: Callable[[int], None]) -> None:
        progress(0)
        self.fail("weights")

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)


class Unmakeable:
    """Cannot be made."""

    def __init__(self, kind: str) -> None:
        if kind == "model":
            raise ModelError("the folder is empty", "Fill it.")
        if kind == "death":
            print("dying young", file=sys.stderr, flush=True)
            os._exit(3)
        raise RuntimeError("out of luck")


class Slow:
    """Takes long to start."""

    def __init__(self) -> None:
        time.sleep(60)


def set_marker() -> None:
    """A `setup` function."""
    os.environ["POOL_TEST_SETUP"] = "ran before"
