"""One round as a whole: warnings, funnel, distributions, and what each stage recorded (`show`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfplay.inspect.documents.distributions import distributions
from selfplay.inspect.documents.funnel import funnel
from selfplay.inspect.documents.rounds import round_row
from selfplay.inspect.documents.selection import selection_diagnostics
from selfplay.inspect.documents.warnings import round_warnings
from selfplay.inspect.reading import SCHEMA_VERSION, finite, require_round
from selfplay.store.run import Store
from selfplay.store.run_state import metrics_if_committed, stages_of

# token ids and per-step lines are for programs that read the metrics file, not for a summary
_LEFT_OUT = ("canaries", "steps")
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
    metrics = {
        stage: found for stage in stages_of(round_number) if (found := metrics_if_committed(store, round_number, stage))
    }
    previous = metrics_if_committed(store, round_number - 1, "evaluate") if round_number else {}
    row = round_row(store, round_number)
    left_out = quick and by is None and metrics.get("select", {}).get("num_pairs", 0) > LARGE
    diagnostics = None
    if tables and "select" in metrics and not left_out:
        diagnostics = _diagnostics(store, round_number, by)
    most = LARGE if quick else None
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "round": round_number,
                "complete": row["complete"],
                "stages": list(metrics),
                "warnings": _warnings(round_warnings(metrics, previous), diagnostics),
                "funnel": funnel(metrics) if round_number else [],
                "distributions": distributions(store, round_number, most) if tables and round_number else {},
                "sampling": metrics.get("sample"),
                "selection": metrics.get("select"),
                "diagnostics": _without(diagnostics),
                "training": _training(metrics.get("train")),
                "evaluation": metrics.get("evaluate"),
                "stage_seconds": row["stage_seconds"],
                "seconds": row["seconds"],
            }
        )
    )


def _diagnostics(store: Store, round_number: int, by: str | None) -> dict[str, Any]:
    return dataclasses.asdict(selection_diagnostics(store, round_number, by))


def _without(diagnostics: dict[str, Any] | None) -> dict[str, Any] | None:
    if diagnostics is None:
        return None
    return {name: value for name, value in diagnostics.items() if name not in _ELSEWHERE}


def _warnings(of_round: list[dict[str, str]], diagnostics: dict[str, Any] | None) -> list[dict[str, str]]:
    """Those of the round's metrics first; what both say is said once."""
    said = {warning["name"] for warning in of_round}
    of_selection = diagnostics["warnings"] if diagnostics is not None else ()
    return [*of_round, *(dict(warning) for warning in of_selection if warning["name"] not in said)]


def _training(train: dict[str, Any] | None) -> dict[str, Any] | None:
    if train is None:
        return None
    shown = {name: value for name, value in train.items() if name not in _LEFT_OUT}
    steps = train.get("steps") or []
    return {**shown, "last_step": steps[-1] if steps else None}
