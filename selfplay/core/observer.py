"""Observers follow a run: reports, trackers, retention. An observer does not change the rows of a run.

The driver calls observers and does not know which they are; `selfplay/api.py` composes them.
"""

from __future__ import annotations

from selfplay.core.protocols import StepMetrics
from selfplay.core.timing import Record


class Observer:
    """Override what you need. An error in an observer is reported and stops nothing, unless `required`."""

    required = False

    def on_begin(self) -> None:
        """The run's lock is held, and nothing was done yet. Called by every resume, also where nothing is left to do."""

    def on_stage(self, round_number: int, stage: str) -> None:
        """A stage begins."""

    def on_timing(self, round_number: int, stage: str, spent: Record) -> None:
        """A stage is committed; `spent` says where its time went."""

    def on_step(self, round_number: int, step: StepMetrics) -> None:
        """An optimizer step is done."""

    def on_round(self, round_number: int) -> None:
        """The last stage of a round is committed."""

    def on_end(self) -> None:
        """The attempt has ended and how it ended is recorded. Not called after a stop at once."""

    def on_close(self) -> None:
        """The last call, also after errors and a stop at once: close what is open."""
