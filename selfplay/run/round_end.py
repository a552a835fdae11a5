"""What follows a round once its last stage is committed: nothing here changes what the rounds hold."""

from __future__ import annotations

from selfplay.config.schema import Config
from selfplay.execution.reporter import Reporter
from selfplay.store.retention import collect
from selfplay.store.run import Store


def tidy(store: Store, config: Config, reporter: Reporter) -> None:
    """After a round, and where a run goes on: take away the policies that `storage.keep_policies` lets go."""
    keep = config.storage.num_policies
    for held in collect(store, keep, f"storage.keep_policies: {keep}"):
        reporter.say(f"round {held.round}: its policy was taken away (storage.keep_policies: {keep} and the best)")
