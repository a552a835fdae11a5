"""The stages of a run, in order."""

from __future__ import annotations

from collections.abc import Iterator

from selfplay.core.stages import stages_of


def every_stage(rounds: int) -> Iterator[tuple[int, str]]:
    """Every (round, stage) of a run, in order."""
    return ((number, name) for number in range(rounds + 1) for name in stages_of(number))
