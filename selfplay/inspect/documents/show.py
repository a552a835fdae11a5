"""One round as a whole: warnings, funnel, distributions, and what each stage recorded (`show`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfplay.core.outcomes import (
    EvaluateOutcome,
    LogprobsOutcome,
    Outcome,
    SampleOutcome,
    SelectOutcome,
    TrainOutcome,
)
from selfplay.inspect.documents.distributions import distributions
from selfplay.inspect.documents.engines import engine_lines
from selfplay.inspect.documents.funnel import funnel
from selfplay.inspect.documents.reward_parts import parts_of_round
from selfplay.inspect.documents.rounds import round_summary
from selfplay.inspect.documents.selection import selection_diagnostics
from selfplay.inspect.documents.timing import timing_rows
from selfplay.inspect.documents.warnings import round_warnings
from selfplay.inspect.reading import SCHEMA_VERSION, finite, require_round
from selfplay.store.run import Store

# token ids, per-step lines and the time of single workers are too long for a summary; the metrics file has them
_LEFT_OUT = ("canaries", "steps", "timing")
LARGE = 1_000_000
# of the diagnostics: the document has a funnel and distributions of the whole round, and one list of warnings
_ELSEWHERE = ("funnel", "distributions", "warnings")


def show_document(
    store: Store, round_number: int, by: str | None = None, *, tables: bool = True, quick: bool = False
) -> dict[str, Any]:
    """The document of `show --json`; `by` names a column of the prompts whose groups' shares are looked at. Without
    `tables` none is read: distributions are empty, diagnostics null, and of the warnings there are those of the metrics.
    With `quick` a round of more than LARGE pairs or responses has distributions of a sample of rows and, unless `by` asks for
    them, no diagnostics: they go through every pair.

    Raises ConfigError for a round or a column that is not there, CorruptionError.
    """
    require_round(store, round_number)
    outcomes = store.outcomes(round_number)
    before = store.outcome_if_committed(round_number - 1, EvaluateOutcome) if round_number else None
    previous = before.evaluation if before else None
    summary = round_summary(store, round_number, outcomes)
    selection = outcomes.selection()
    left_out = quick and by is None and selection is not None and selection.num_pairs > LARGE
    diagnostics: dict[str, Any] | None = None
    # a table of numbers has no prompts and responses
    if tables and selection is not None and not left_out and store.is_committed(round_number, "prompts"):
        diagnostics = dataclasses.asdict(selection_diagnostics(store, round_number, by))
    most = LARGE if quick else None
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "round": round_number,
                "complete": summary.complete,
                "stages": [outcome.stage for outcome in outcomes],
                "warnings": _warnings(round_warnings(outcomes, previous), diagnostics),
                "funnel": funnel(outcomes) if round_number else [],
                "distributions": distributions(store, round_number, most) if tables and round_number else {},
                "sampling": _recorded(outcomes.get(SampleOutcome)),
                "engines": engine_lines(outcomes),
                "logprobs": _recorded(outcomes.get(LogprobsOutcome)),
                "selection": _recorded(outcomes.get(SelectOutcome)),
                "diagnostics": _without(diagnostics),
                "training": _training(outcomes.get(TrainOutcome)),
                "evaluation": _recorded(outcomes.get(EvaluateOutcome)),
                "reward_parts": [dataclasses.asdict(part) for part in parts_of_round(outcomes, before)],
                "timing": [dataclasses.asdict(row) for row in timing_rows(outcomes)],
                "stage_seconds": summary.stage_seconds,
                "seconds": summary.seconds,
            }
        )
    )


def _without(diagnostics: dict[str, Any] | None) -> dict[str, Any] | None:
    if diagnostics is None:
        return None
    return {name: value for name, value in diagnostics.items() if name not in _ELSEWHERE}


def _warnings(of_round: list[dict[str, str]], diagnostics: dict[str, Any] | None) -> list[dict[str, str]]:
    """Those of the round's metrics first; what both say is said once."""
    said = {warning["name"] for warning in of_round}
    of_selection = diagnostics["warnings"] if diagnostics is not None else ()
    return [*of_round, *(dict(warning) for warning in of_selection if warning["name"] not in said)]


def _recorded(outcome: Outcome | None) -> dict[str, Any] | None:
    return (
        {name: value for name, value in outcome.to_json().items() if name != "timing"} if outcome is not None else None
    )


def _training(outcome: TrainOutcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    recorded = outcome.to_json()
    shown = {name: value for name, value in recorded.items() if name not in _LEFT_OUT}
    steps = recorded.get("steps")
    return {**shown, "last_step": steps[-1] if steps else None}
