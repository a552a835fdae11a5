"""Where the progress of a run goes: the protocol that stages and pools report through."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or a test."""

    def say(self, message: str) -> None:
        """One line for people."""

    def begin(self, title: str, total: int, done: int, unit: str) -> None:
        """A piece of work of `total` units begins, `done` of them adopted."""

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more units are done and kept."""

    def end(self) -> None:
        """The piece of work is over."""
