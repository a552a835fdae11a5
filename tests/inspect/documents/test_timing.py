"""Bars of time: the driver first, workers of a role together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from selfplay.cli.show import timing_lines
from selfplay.core.outcomes import RoundOutcomes
from selfplay.core.timing import PartSeconds
from selfplay.inspect.documents.timing import timing_rows
from selfplay.store.run import Store
from tests.helpers.outcomes import outcome_of

TIMING = {
    "sampler-1": PartSeconds(computing=2.0, waiting=2.0),
    "sampler-0": PartSeconds(computing=4.0),
    "driver": PartSeconds(waiting=3.0, writing=1.0),
    "scorer-fluency-0": PartSeconds(waiting=4.0),
}


def test_workers_of_a_role_are_one_row() -> None:
    outcome = dataclasses.replace(outcome_of("sample"), timing=TIMING)
    rows = [dataclasses.asdict(row) for row in timing_rows(RoundOutcomes([outcome]))]
    assert [(row["who"], row["num_workers"]) for row in rows] == [("driver", 1), ("sampler", 2), ("scorer-fluency", 1)]
    assert rows[1]["seconds"]["computing"] == 3.0
    assert timing_lines(rows).splitlines()[1:] == [
        "stage   who                s",
        "sample  driver          4.00  ..............................wwwwwwwwww  waiting 3.00, writing 1.00",
        "sample  sampler x 2     4.00  ..........##############################  waiting 1.00, computing 3.00",
        "sample  scorer-fluency  4.00  ........................................  waiting 4.00",
    ]


def test_a_recorded_round(whole_run: Path) -> None:
    rows = timing_rows(Store.open(whole_run).outcomes(1))
    assert [(row.stage, row.who, row.num_workers) for row in rows] == [
        ("sample", "driver", 1),
        ("sample", "sampler", 1),
    ]
    text = timing_lines([dataclasses.asdict(row) for row in rows])
    assert "........" in text and "llll" in text and "waiting 1.25, writing 0.25" in text
