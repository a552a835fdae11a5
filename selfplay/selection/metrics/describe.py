"""Metrics as a document: what `selfplay metrics` shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selfplay.selection.metrics.inputs import how_to_get, made_of
from selfplay.selection.metrics.metric import Metric


def describe(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """One plain dict a metric: `name formula direction inputs options keeps_all source`; of each input its `name`, the
    columns of the pairs table it is `made_of` for either implicit margin, and `how_to_get` it."""
    return [
        {
            "name": metric.name,
            "formula": metric.formula,
            "direction": metric.direction,
            "inputs": [_input(name) for name in metric.inputs if name != "pair_id"],
            "options": metric.options,
            "keeps_all": metric.keeps_all,
            "source": metric.source,
        }
        for metric in metrics
    ]


def _input(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "made_of": {kind: list(made_of(name, kind)) for kind in ("simpo", "dpo")},
        "how_to_get": how_to_get(name),
    }
