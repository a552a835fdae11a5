"""The report that a run writes about itself: as its rounds end, and once more when the attempt has ended."""

from __future__ import annotations

import re
from collections.abc import Callable

from selfplay.config.running import ReportConfig
from selfplay.core.observer import Observer
from selfplay.core.stages import LAST_STAGE
from selfplay.inspect.report.contents import Known, gather
from selfplay.inspect.report.writing import README, REPORT, write
from selfplay.store.run import Store

# what a page says of how much it was made from, and the bytes in which it does
_COMMITS, _HEAD = re.compile(rb'<meta name="selfplay-commits" content="(\d+)">'), 4096


class Report(Observer):
    """Writes `report.html` and README.md into the run. `rounds`: how many the run plans; `say` reports what failed."""

    def __init__(self, store: Store, settings: ReportConfig, rounds: int, say: Callable[[str], None]) -> None:
        self._store, self._settings, self._rounds, self._say = store, settings, rounds, say
        self._known: Known = {}

    def on_begin(self) -> None:
        """Write the report that an earlier attempt was stopped before."""
        due = self._due()
        if due and _num_commits_reported(self._store) < sum(
            len(self._store.committed(number)) for number in range(due[-1] + 1)
        ):
            self._write()

    def on_round(self, round_number: int) -> None:
        """After the last round the attempt ends, and the report is to say how: `on_end` writes it."""
        if self._is_due(round_number) and round_number != self._rounds:
            self._write()

    def on_end(self) -> None:
        """The report says how the attempt ended."""
        if self._due():
            self._write()

    def _is_due(self, round_number: int) -> bool:
        """After every `report.every` rounds, and after the last."""
        every = self._settings.every
        return bool(every) and (round_number % every == 0 or round_number == self._rounds)

    def _due(self) -> list[int]:
        """The complete rounds after which a report is due."""
        ended = [number for number in self._store.rounds() if self._store.is_committed(number, LAST_STAGE)]
        return [number for number in ended if self._is_due(number)]

    def _write(self) -> None:
        try:
            write(self._store, gather(self._store, redact=self._settings.redact, known=self._known))
        except Exception as error:
            # whatever it is: hours of sampling and training must not end because of a page about them
            self._say(
                f"{REPORT} was not written ({type(error).__name__}: {error}); the run continues. "
                "`selfplay report` writes it at any time."
            )


def _num_commits_reported(store: Store) -> int:
    """Committed stages that the report in the run was made from; 0 where there is none."""
    page = store.layout.root / REPORT
    if not page.is_file() or not (store.layout.root / README).is_file():
        return 0
    with page.open("rb") as file:
        found = _COMMITS.search(file.read(_HEAD))
    return int(found[1]) if found else 0
