"""From prompts to kept pairs: the count at each step, and the reasons of the losses (`show`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.core.outcomes import PairOutcome, PromptsOutcome, RoundOutcomes, SampleOutcome, ScoreOutcome


def funnel(outcomes: RoundOutcomes) -> list[dict[str, Any]]:
    """Rows of step, unit, count and `lost` (reason -> count); steps whose stage is not committed are left out.

    `lost` counts in the unit of the step's own row; for *pairs*, whose row counts pairs, it counts responses in no
    pair.
    """
    rows: list[dict[str, Any]] = []

    def step(name: str, unit: str, count: int, lost: Mapping[str, int]) -> None:
        rows.append({"step": name, "unit": unit, "count": count, "lost": _by_count(lost)})

    if prompts := outcomes.get(PromptsOutcome):
        step("prompts", "prompts", prompts.num_prompts, {})
        step("admitted", "prompts", prompts.num_admitted, prompts.drop_reasons)
    if sample := outcomes.get(SampleOutcome):
        step("sampled", "responses", sample.num_responses, sample.drop_reasons)
    if score := outcomes.get(ScoreOutcome):
        step("scored", "responses", score.num_scored, score.drop_reasons)
    if pair := outcomes.get(PairOutcome):
        step("paired", "pairs", pair.num_pairs, pair.unused_reasons)
    if selection := outcomes.selection():
        step("kept", "pairs", selection.num_kept, selection.drop_reasons)
    return rows


def _by_count(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
