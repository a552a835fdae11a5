"""`selfplay metrics [NAME ...]`: lists the metrics that rank pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfplay.cli.arguments import Json
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import write_document

if TYPE_CHECKING:
    from selfplay.selection.metrics import Metric

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Metrics to show; file.py:function for your own. Default: all."),
]


def command(names: Names = None, json_output: Json = False) -> None:
    """List the metrics: formula, inputs, options, source.

    R is the explicit reward margin, L the implicit one, z the standard score over the pool. Your own metric is a
    function of named columns in a file: use file.py:function as the name of the metric.
    """
    from selfplay.inputs.user_code.metrics import load_metric
    from selfplay.selection.metrics import METRICS

    found = [load_metric(name, Path.cwd()) for name in names] if names else METRICS.values()
    write_document(
        {"schema_version": 1, "metrics": [_document(metric) for metric in found]}, _text, as_json=json_output
    )


def _text(document: dict[str, Any]) -> str:
    lines: list[str] = []
    ways: dict[str, list[str]] = {}
    for metric in document["metrics"]:
        lines += _lines(metric)
        for column in metric["inputs"]:
            ways.setdefault(column["how_to_get"], []).append(column["name"])
    if ways:
        lines.append("inputs and how to get them")
        lines += [f"  {', '.join(dict.fromkeys(names))}\n      {escape_terminal(way)}" for way, names in ways.items()]
    return "\n".join(lines)


def _document(metric: Metric) -> dict[str, Any]:
    """Its description; of each input the columns it is made of for either implicit margin, and how to get it."""
    from selfplay.selection.metrics import how_to_get, made_of

    return {
        "name": metric.name,
        "formula": metric.formula,
        "direction": metric.direction,
        "inputs": [
            {
                "name": name,
                "made_of": {kind: list(made_of(name, kind)) for kind in ("simpo", "dpo")},
                "how_to_get": how_to_get(name),
            }
            for name in metric.inputs
            if name != "pair_id"
        ],
        "options": metric.options,
        "keeps_all": metric.keeps_all,
        "source": metric.source,
    }


def _lines(metric: dict[str, Any]) -> list[str]:
    options = ", ".join(f"{name} {default:g}" for name, default in metric["options"].items())
    parts = {
        "formula": metric["formula"],
        "kept": metric["direction"],
        "inputs": ", ".join(column["name"] for column in metric["inputs"]) or "none",
        "options": options,
        "source": metric["source"],
    }
    shown = [f"  {name:<8} {escape_terminal(text)}" for name, text in parts.items() if text]
    return [escape_terminal(metric["name"]), *shown, ""]
