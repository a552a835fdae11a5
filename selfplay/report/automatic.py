"""Reports that a run writes about itself as its rounds end. A report that cannot be written is said and stops nothing."""

from __future__ import annotations

from collections.abc import Callable

from selfplay.config.schema import Config
from selfplay.report.contents import gather
from selfplay.report.writing import REPORT, write
from selfplay.store.run import Store


def report_round(store: Store, config: Config, round_number: int, say: Callable[[str], None]) -> None:
    """Write `report.html` and README.md into a run whose round has just ended, where one is due: after every `report.every`
    rounds and after the last. `say` tells people what failed."""
    every = config.report.every
    if not every or (round_number % every and round_number != config.rounds):
        return
    try:
        write(store, gather(store, redact=config.report.redact))
    except Exception as error:
        # whatever it is: hours of sampling and training must not end on a page about them
        say(
            f"{REPORT} was not written ({type(error).__name__}: {error}); the run goes on. "
            "`selfplay report` writes it at any time."
        )
