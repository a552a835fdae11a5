"""The protocol through which stages and pools report progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """How far a piece of work is."""

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more units are done and kept."""

    def adopt(self, amount: int) -> None:
        """`amount` more units were done by an earlier attempt."""

    def end(self) -> None:
        """The piece of work is over."""


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or a test. Threads may use it at the same time."""

    def say(self, message: str) -> None:
        """One line for people."""

    def begin(self, title: str, total: int, done: int, unit: str) -> Progress:
        """A piece of work begins, of `total` units as far as is known, `done` of them adopted. Several may be under way."""
