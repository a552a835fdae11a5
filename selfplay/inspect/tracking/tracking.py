"""What a run sends to its trackers: every optimizer step's numbers, every round's row, and examples where text was asked for.

A tracker that fails is reported once and not used any more: no run ends because of it. What a kill kept from a tracker is still
in the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfplay.config.running import TrackingConfig
from selfplay.core.observer import Observer
from selfplay.core.outcomes import TrainOutcome
from selfplay.core.protocols import StepMetrics
from selfplay.inspect.documents.rounds import round_summary
from selfplay.inspect.tracking.trackers import TRACKERS, Target, Tracker
from selfplay.store.run import Store

NUM_EXAMPLES = 5


class Tracking(Observer):
    """The open trackers of one attempt."""

    def __init__(
        self, trackers: Mapping[str, Tracker], store: Store, say: Callable[[str], None], *, log_text: bool = False
    ) -> None:
        self._trackers = dict(trackers)
        self._store, self._say, self._log_text = store, say, log_text
        self._steps_before: dict[int, int] = {}

    def on_step(self, round_number: int, step: StepMetrics) -> None:
        """One optimizer step of a round's training; steps count on over the rounds."""
        if not self._trackers:
            return
        if round_number not in self._steps_before:
            before = [number for number in self._store.rounds() if 0 < number < round_number]
            done = sum(self._store.outcome(number, TrainOutcome).optimizer_steps for number in before)
            self._steps_before[round_number] = done
        total = self._steps_before[round_number] + step.step
        values = _numbers(dataclasses.asdict(step))
        self._each(lambda tracker: tracker.numbers("train", total, values))

    def on_round(self, round_number: int) -> None:
        """The numbers of a round, and examples where text was asked for."""
        if not self._trackers:
            return
        summary = round_summary(self._store, round_number)
        seconds = {f"seconds_{stage}": value for stage, value in summary.stage_seconds.items()}
        values = _numbers({**summary.to_json(), **seconds})
        self._each(lambda tracker: tracker.numbers("round", round_number, values))
        if self._log_text and self._store.is_committed(round_number, "select"):
            text = _examples(self._store, round_number)
            self._each(lambda tracker: tracker.text("examples", round_number, text))

    def on_close(self) -> None:
        """Send the remaining data."""
        self._each(lambda tracker: tracker.close())
        self._trackers = {}

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # of any library, over any network: said, and the run goes on
                self._say(f"tracking: {name} failed and is no longer used ({type(error).__name__}: {error})")
                del self._trackers[name]


def open_trackers(settings: TrackingConfig, store: Store, folder: Path, say: Callable[[str], None]) -> Tracking:
    """The trackers of `tracking.to`. `folder` is the attempt's. One that cannot be opened is reported and left out."""
    target = Target(settings.project, store.run_id, store.layout.root.name, folder)
    opened: dict[str, Tracker] = {}
    for name in settings.to:
        try:
            opened[name] = TRACKERS[name](target)
        except Exception as error:  # see `_each`
            say(f"tracking: {name} could not be opened ({type(error).__name__}: {error}); the run continues without it")
    return Tracking(opened, store, say, log_text=settings.log_text)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a finite number; flags count 0 and 1. Texts never pass."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and name not in ("round", "step", "num_steps")
    }


def _examples(store: Store, round_number: int) -> str:
    """The best-ranked kept pairs, as text."""
    columns = ["prompt", "chosen", "rejected", "kept", "reward_chosen", "reward_rejected", "metric_value"]
    table = store.table(round_number, "select", columns=columns)
    blocks = []
    for pair in table.filter(table["kept"]).slice(0, NUM_EXAMPLES).to_pylist():
        turns = [f"[{turn['role']}] {turn['content']}" for turn in pair["prompt"]]
        turns += [
            f"[{side}, reward {pair[f'reward_{side}']:.4g}] {pair[side][-1]['content']}"
            for side in ("chosen", "rejected")
        ]
        blocks.append("\n".join(turns))
    return "\n\n".join(blocks)
