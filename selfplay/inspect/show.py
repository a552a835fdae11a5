"""One round as a whole: warnings, funnel, distributions, and what each stage recorded (`show`)."""

from __future__ import annotations

from typing import Any

from selfplay.inspect.distributions import distributions
from selfplay.inspect.funnel import funnel
from selfplay.inspect.reading import SCHEMA_VERSION, finite, metrics_if_committed, require_round, stages_of
from selfplay.inspect.rounds import round_row
from selfplay.inspect.warnings import round_warnings
from selfplay.store.run import Store

# token ids and per-step lines are for programs that read the metrics file, not for a summary
_LEFT_OUT = ("canaries", "steps")


def show_document(store: Store, round_number: int) -> dict[str, Any]:
    """The document of `show --json`. Raises ConfigError for a round that is not there, CorruptionError."""
    require_round(store, round_number)
    metrics = {
        stage: found for stage in stages_of(round_number) if (found := metrics_if_committed(store, round_number, stage))
    }
    previous = metrics_if_committed(store, round_number - 1, "evaluate") if round_number else {}
    row = round_row(store, round_number)
    return dict(
        finite(
            {
                "schema_version": SCHEMA_VERSION,
                "round": round_number,
                "complete": row["complete"],
                "stages": list(metrics),
                "warnings": round_warnings(metrics, previous),
                "funnel": funnel(metrics) if round_number else [],
                "distributions": distributions(store, round_number) if round_number else {},
                "sampling": metrics.get("sample"),
                "selection": metrics.get("select"),
                "training": _training(metrics.get("train")),
                "evaluation": metrics.get("evaluate"),
                "stage_seconds": row["stage_seconds"],
                "seconds": row["seconds"],
            }
        )
    )


def _training(train: dict[str, Any] | None) -> dict[str, Any] | None:
    if train is None:
        return None
    shown = {name: value for name, value in train.items() if name not in _LEFT_OUT}
    steps = train.get("steps") or []
    return {**shown, "last_step": steps[-1] if steps else None}
