"""Backends for the tests of the Ray pool: workers import them by name in processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfplay.core.errors import ModelError, WeightSyncError, WorkerLostError
from selfplay.core.heartbeat import beat


class Counter:
    """Answers with what it was told; `lives` is a file to which every process that made a backend adds its id."""

    def __init__(self, lives: str = "") -> None:
        self.told = "nothing"
        pa.table({"imported": ["before a deadline runs"]})
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
            raise WeightSyncError("canary missed", "Rebuild.")
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

    def count_and_die_at(self, up_to: int, at: int, marker: str, progress: Callable[[int], None]) -> str:
        """As a trainer with checkpoints: the process dies once, and its replacement goes on where it was."""
        done = int(Path(marker).read_text()) if Path(marker).exists() else 0
        for number in range(done, up_to):
            progress(number)
            Path(marker).write_text(str(number + 1))
            if number == at:
                time.sleep(0.5)
                self.die()
        return f"done from {done}"

    def square(self, numbers: list[int], poison: int, how: str) -> Any:
        """A table of squares; the process does not get past the poison."""
        for number in numbers:
            if number == poison:
                time.sleep(0.3)  # for the answer before it to arrive: tests count the deaths
                getattr(self, how)()
            beat()
        return pa.table({"number": numbers, "square": [number * number for number in numbers]})

    def lose(self) -> None:
        raise WorkerLostError("the engine is gone")

    def hang(self) -> None:
        print("I hang now", file=sys.stderr, flush=True)
        time.sleep(600)

    def hang_in_c(self) -> None:
        """With Python's lock held: no thread of Python's runs any more."""
        ctypes.PyDLL(None).sleep(600)

    def stop_itself(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)

    def hang_in_stream(self, marker: str, progress: Callable[[int], None]) -> str:
        progress(0)
        if not Path(marker).exists():
            Path(marker).touch()
            self.hang()
        return "done"

    def be_slow(self, seconds: float) -> str:
        """Longer than the deadline, with signs of progress."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.25)
            beat()
        return "done"

    def end_children(self) -> list[int]:
        """As reward functions do: a pool of processes, and a program that is told to end."""
        with multiprocessing.Pool(1) as pool:
            pool.map(abs, [-1])
        program = subprocess.Popen(["sleep", "600"])
        program.terminate()
        codes = [program.wait()]
        thread = threading.Thread(target=lambda: codes.append(_ended_program()))
        thread.start()
        thread.join()
        return codes

    def crash(self) -> None:
        ctypes.string_at(0)

    def leave(self) -> None:
        sys.exit(3)

    def interrupt(self) -> None:
        raise KeyboardInterrupt("from below")

    def print_environment(self) -> None:
        print(dict(os.environ), flush=True)

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)


def _ended_program() -> int:
    program = subprocess.Popen(["sleep", "600"])
    program.terminate()
    return program.wait()


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
