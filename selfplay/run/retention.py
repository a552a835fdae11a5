"""The observer that deletes policies by `storage.keep_policies`: after a round, and when a run is resumed."""

from __future__ import annotations

from selfplay.config.running import StorageConfig
from selfplay.core.observer import Observer
from selfplay.execution.reporter import Reporter
from selfplay.store.retention import collect
from selfplay.store.run import Store


class Retention(Observer):
    """Deletes the policies that no later stage needs. A failure ends the attempt: the disk would fill up."""

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
