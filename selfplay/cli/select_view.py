"""The summary of a selection as text for a terminal."""

from __future__ import annotations

from typing import Any

from selfplay.cli.selection_view import diagnostic_lines, warning_lines
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import table

_SELECTION = (
    "implicit_margin", "weight", "beta", "standardize", "keep", "keep_per_group", "min_per_group", "max_per_prompt", "seed",
    "effective_beta", "cut_value", "explicit_margin_mean", "explicit_margin_std", "implicit_margin_abs_mean",
    "implicit_margin_abs_std", "length_gap_mean", "length_gap_kept_mean",
)  # fmt: skip
_SHOWN = 5


def view(summary: dict[str, Any]) -> str:
    """All of it, warnings first."""
    selection, metric, dataset = summary["selection"], summary["metric"], summary["dataset"]
    blocks = [
        escape_terminal(
            f"{dataset['name']}: kept {selection['num_kept']} of {selection['num_ranked']} ranked pairs by {metric['name']}"
            f" = {metric['formula']}; "
            + ("the lowest values are kept" if selection["keep_lowest"] else metric["direction"])
        ),
        "\n".join(warning_lines(summary["diagnostics"])),
        _bad_rows(summary),
        _building(summary["pair_building"]),
        *diagnostic_lines(summary["diagnostics"]),
        "selection\n"
        + table(
            [], [[name, _said(selection[name])] for name in _SELECTION if selection[name] is not None], left=(0, 1)
        ),
        "\n".join(escape_terminal(f"note: {text}") for text in summary["notes"]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _said(value: Any) -> str:
    """A setting or a number; quotas by name as they are written."""
    if isinstance(value, dict):
        return escape_terminal(", ".join(f"{name}={quota}" for name, quota in value.items()))
    return number(value, 4)


def _bad_rows(summary: dict[str, Any]) -> str:
    lines = [f"{row['file']} row {row['row']}: {row['detail']}" for row in summary["bad_rows"]["examples"][:_SHOWN]]
    lines += [
        f"{row.get('source_file', 'pair')} row {row.get('source_row', row['pair_id'])}: {row['reason']}"
        for row in summary["dropped_examples"][:_SHOWN]
    ]
    return (
        "the first rows that were not ranked\n" + "\n".join(f"  {escape_terminal(line)}" for line in lines)
        if lines
        else ""
    )


def _building(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    lost = ", ".join(f"{name} {count}" for name, count in found["unused"].items())
    return escape_terminal(
        f"{found['num_pairs']} pairs of {found['num_responses']} responses to {found['num_prompts']} prompts"
        + (f"; in no pair: {lost}" if lost else "")
    )
