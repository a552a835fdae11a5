"""Where the time of a round's stages went (`show --timing`, the report), from what the stages recorded."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.core.outcomes import RoundOutcomes
from selfplay.core.timing import DRIVER, PARTS, PartSeconds


@dataclass(frozen=True, slots=True)
class TimingRow:
    """A bar: the seconds that the driver spent on a stage, or that its workers of one role did on average."""

    stage: str
    who: str
    num_workers: int
    seconds: PartSeconds


def timing_rows(outcomes: RoundOutcomes) -> list[TimingRow]:
    """The rows of a round, stage by stage, the driver first."""
    rows = []
    for outcome in outcomes:
        found: dict[str, list[PartSeconds]] = {}
        for who, spent in (outcome.timing or {}).items():
            # a worker is called ROLE-INDEX, and a thread of the driver that asks one of several scorers "driver, SECTION"
            found.setdefault(who if who.startswith(DRIVER) else who.rpartition("-")[0], []).append(spent)
        for role in sorted(found, key=lambda role: (role != DRIVER, role)):
            rows.append(TimingRow(outcome.stage, role, len(found[role]), _mean(found[role])))
    return rows


def _mean(found: list[PartSeconds]) -> PartSeconds:
    return PartSeconds(**{part: round(sum(getattr(each, part) for each in found) / len(found), 3) for part in PARTS})
