"""The plots of one round: where the responses went, how rewards and margins are spread, what the cut kept.

Histograms are those of `show`; the scatters read five columns of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from selfplay.core.format import PAGE
from selfplay.core.timing import DRIVER, PARTS
from selfplay.inspect.documents.distributions import describe, floats
from selfplay.inspect.report.figures import Figure
from selfplay.inspect.web.charts import Bin, Part, Step, funnel, histogram, scatter, stacked_bars
from selfplay.store.run import Store

Document = Mapping[str, Any]

_PAIRS = ["explicit_margin", "implicit_margin", "num_tokens_chosen", "num_tokens_rejected", "kept"]
# which histogram the cut of a metric is drawn in
_CUT_IN = ("alignment_potential", "explicit_margin", "implicit_margin")


def round_figures(store: Store, shown: Document) -> list[Figure]:
    """The plots of a round from its document of `show`."""
    number = shown["round"]
    figures = [*_funnel(shown), *_rewards(shown)]
    if shown["selection"] is not None:
        figures += [*_margins(store, shown), *_scatters(store, number)]
    return [*figures, *_timing(shown)]


def _funnel(shown: Document) -> Iterator[Figure]:
    steps = [Step(step["step"], step["unit"], step["count"]) for step in shown["funnel"]]
    if steps:
        name = f"funnel-{shown['round']}"
        question = "What became of the prompts and the responses?"
        yield Figure(
            question, "Bars of one colour count the same thing; the reasons are below.", funnel(name, question, steps)
        )


def _timing(shown: Document) -> Iterator[Figure]:
    rows = [row for row in shown["timing"] if sum(row["seconds"].values())]
    if rows:
        question = "What did each stage spend its time on?"
        names = [row["stage"] if row["who"] == DRIVER else f"- {row['who']}" for row in rows]
        parts = [Part(part, [row["seconds"][part] for row in rows]) for part in PARTS]
        chart = stacked_bars(
            f"timing-{shown['round']}", question, names, parts, row_title="stage", x_title="seconds", show=PAGE.duration
        )
        reading = "The first bar of a stage is the driver; those below it are its workers, the mean of each role."
        yield Figure(question, reading, chart)


def _bins(found: Document) -> list[Bin]:
    return [Bin(**row) for row in found["histogram"]]


def _rewards(shown: Document) -> Iterator[Figure]:
    found = shown["distributions"].get("reward")
    if found is not None:
        question = "How are the rewards of the responses spread?"
        chart = histogram(f"reward-{shown['round']}", question, _bins(found), x_title="reward", y_title="responses")
        yield Figure(
            question,
            "All scored responses of the round. Two peaks, or many values at one end, show how the reward judges.",
            chart,
        )


def _margins(store: Store, shown: Document) -> Iterator[Figure]:
    number, selection = shown["round"], shown["selection"]
    metric, cut = selection["metric"], selection.get("cut_value")
    found = dict(shown["distributions"])
    texts = {
        "alignment_potential": (
            "Which pairs are worth the most?",
            "Alignment potential: how different the rewards of the two are, minus how strongly the policy already prefers one.",
        ),
        "explicit_margin": (
            "How different are the rewards of the two responses?",
            "Explicit margin: reward of the chosen response minus that of the rejected one.",
        ),
        "implicit_margin": (
            "Which response does the policy already prefer?",
            "Implicit margin, from the policy's log-probs: above 0 it prefers the chosen response before any training.",
        ),
    }
    if metric not in _CUT_IN:
        kept = store.table(number, "select", columns=["metric_value", "kept"])
        described = describe(kept["metric_value"], kept["kept"].to_numpy())
        if described is not None:
            found["metric_value"] = described
            texts = {
                "metric_value": (
                    "Which pairs does the metric put first?",
                    f"Values of {metric}, which ranked the pairs.",
                ),
                **texts,
            }
    for name, (question, reading) in texts.items():
        if name in found:
            drawn = cut if name in (metric, "metric_value") else None
            more = " The dashed line is the lowest value that was kept." if drawn is not None else ""
            title = name.replace("_", " ")
            chart = histogram(f"{name}-{number}", question, _bins(found[name]), x_title=title, cut=drawn)
            yield Figure(question, reading + more, chart)


def _scatters(store: Store, number: int) -> Iterator[Figure]:
    table = store.table(number, "select", columns=_PAIRS)
    kept_P = np.asarray(table["kept"].to_numpy(), dtype=np.bool_)
    explicit_P, implicit_P, chosen_P, rejected_P = (floats(table[name]) for name in _PAIRS[:-1])
    if (np.isfinite(explicit_P) & np.isfinite(implicit_P)).any():
        question = "Do the kept pairs tell the policy something new?"
        chart = scatter(
            f"margins-{number}",
            question,
            implicit_P,
            explicit_P,
            kept_P,
            x_title="implicit margin",
            y_title="explicit margin",
        )
        reading = (
            "High: the rewards differ much. Near 0 horizontally: the policy has no preference yet. Alignment potential keeps "
            "pairs that are high and near the middle."
        )
        yield Figure(question, reading, chart)
    if (np.isfinite(chosen_P) & np.isfinite(rejected_P)).any():
        question = "Is the better response just the longer one?"
        chart = scatter(
            f"lengths-{number}", question, rejected_P, chosen_P, kept_P,
            x_title="tokens, rejected", y_title="tokens, chosen", diagonal=True,
        )  # fmt: skip
        yield Figure(
            question, "On the dashed line both are equally long; above it the chosen response is longer.", chart
        )
