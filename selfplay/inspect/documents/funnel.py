"""From prompts to kept pairs: the count at each step, and the reasons of the losses (`show`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def funnel(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of step, unit, count and `lost` (reason -> count); steps whose stage is not committed are left out.

    `lost` counts in the unit of the step's own row; for *pairs*, whose row counts pairs, it counts responses in no
    pair.
    """
    rows: list[dict[str, Any]] = []

    def step(name: str, unit: str, count: int, lost: Mapping[str, int]) -> None:
        rows.append({"step": name, "unit": unit, "count": count, "lost": _by_count(lost)})

    if prompts := metrics.get("prompts"):
        step("prompts", "prompts", prompts["num_prompts"], {})
        step("admitted", "prompts", prompts["num_admitted"], prompts["drop_reasons"])
    if sample := metrics.get("sample"):
        step("sampled", "responses", sample["num_responses"], sample.get("drop_reasons", {}))
    if score := metrics.get("score"):
        step("scored", "responses", score["num_scored"], score["drop_reasons"])
    if pair := metrics.get("pair"):
        step("paired", "pairs", pair["num_pairs"], pair["unused_reasons"])
    if select := metrics.get("select"):
        step("kept", "pairs", select["num_kept"], select["drop_reasons"])
    return rows


def _by_count(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
