"""The observers of one attempt, called in order, and the observer that deletes policies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfplay.config.running import StorageConfig
from selfplay.config.schema import Config
from selfplay.core.observer import Observer
from selfplay.core.protocols import StepMetrics
from selfplay.core.timing import Record
from selfplay.execution.reporter import Reporter
from selfplay.store.retention import collect
from selfplay.store.run import Store


@dataclass(frozen=True, slots=True)
class Observed:
    """What observers are made for. `folder` is where this attempt's logs go; None where a resume has nothing to do."""

    store: Store
    config: Config
    reporter: Reporter
    folder: Path | None


MakeObservers = Callable[[Observed], Sequence[Observer]]


def no_observers(observed: Observed) -> Sequence[Observer]:
    """For a run without observers."""
    return ()


class Observers:
    """Tells every observer, in order, one thing at a time: stages that work side by side speak from threads of their own."""

    def __init__(self, observers: Sequence[Observer], reporter: Reporter) -> None:
        self._observers = observers
        self._reporter = reporter
        self._lock = threading.RLock()

    def begin(self) -> None:
        """See `Observer.on_begin`."""
        self._tell(lambda observer: observer.on_begin())

    def stage(self, round_number: int, stage: str) -> None:
        """See `Observer.on_stage`."""
        self._tell(lambda observer: observer.on_stage(round_number, stage))

    def timing(self, round_number: int, stage: str, spent: Record) -> None:
        """See `Observer.on_timing`."""
        self._tell(lambda observer: observer.on_timing(round_number, stage, spent))

    def step(self, round_number: int, step: StepMetrics) -> None:
        """See `Observer.on_step`."""
        self._tell(lambda observer: observer.on_step(round_number, step))

    def round(self, round_number: int) -> None:
        """See `Observer.on_round`."""
        self._tell(lambda observer: observer.on_round(round_number))

    def end(self) -> None:
        """See `Observer.on_end`."""
        self._tell(lambda observer: observer.on_end())

    def close(self) -> None:
        """See `Observer.on_close`."""
        self._tell(lambda observer: observer.on_close())

    def _tell(self, call: Callable[[Observer], None]) -> None:
        with self._lock:
            for observer in self._observers:
                try:
                    call(observer)
                except Exception as error:
                    # whatever it is: hours of sampling and training must not end because somebody looked at them
                    if observer.required:
                        raise
                    name = type(observer).__name__
                    self._reporter.say(f"{name} failed ({type(error).__name__}: {error}); the run continues")


class Retention(Observer):
    """Deletes the policies that no later stage needs (`storage.keep_policies`), after each round and on a resume. A failure
    ends the attempt: the disk would fill up."""

    required = True

    def __init__(self, store: Store, settings: StorageConfig, reporter: Reporter) -> None:
        self._store, self._keep, self._reporter = store, settings.num_policies, reporter

    def on_begin(self) -> None:
        """The setting may have changed since the last attempt."""
        self._collect()

    def on_round(self, round_number: int) -> None:
        """See `Observer`."""
        self._collect()

    def _collect(self) -> None:
        why = f"storage.keep_policies: {self._keep}"
        for held in collect(self._store, self._keep, why):
            self._reporter.say(f"round {held.round}: its policy was deleted ({why} and the best)")
