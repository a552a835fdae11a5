"""Reports that a run writes about itself as its rounds end. A report that cannot be written is said and stops nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

from selfplay.config.schema import Config
from selfplay.core.stages import stages_of
from selfplay.inspect.report.contents import gather
from selfplay.inspect.report.writing import README, REPORT, write
from selfplay.store.run import Store

# what a page says of how much it was made from, and the bytes in which it does
_COMMITS, _HEAD = re.compile(rb'<meta name="selfplay-commits" content="(\d+)">'), 4096


def report_round(store: Store, config: Config, round_number: int, say: Callable[[str], None]) -> None:
    """Write `report.html` and README.md into a run whose round has just ended, where one is due. `say` tells people what
    failed."""
    if not _is_due(config, round_number):
        return
    try:
        write(store, gather(store, redact=config.report.redact))
    except Exception as error:
        # whatever it is: hours of sampling and training must not end on a page about them
        say(
            f"{REPORT} was not written ({type(error).__name__}: {error}); the run goes on. "
            "`selfplay report` writes it at any time."
        )


def report_what_is_due(store: Store, config: Config, say: Callable[[str], None]) -> None:
    """Write the report of an earlier attempt's last round where that attempt was stopped between the round's end and it."""
    ended = [number for number in store.rounds() if store.is_committed(number, "evaluate")]
    due = [number for number in ended if _is_due(config, number)]
    if due and _num_commits_reported(store) < sum(
        store.is_committed(number, stage) for number in range(due[-1] + 1) for stage in stages_of(number)
    ):
        report_round(store, config, due[-1], say)


def _is_due(config: Config, round_number: int) -> bool:
    """After every `report.every` rounds, and after the last."""
    every = config.report.every
    return bool(every) and (round_number % every == 0 or round_number == config.rounds)


def _num_commits_reported(store: Store) -> int:
    """Committed stages that the report in the run was made from; 0 where there is none, or one of an earlier version."""
    page = store.layout.root / REPORT
    if not page.is_file() or not (store.layout.root / README).is_file():
        return 0
    with page.open("rb") as file:
        found = _COMMITS.search(file.read(_HEAD))
    return int(found[1]) if found else 0
