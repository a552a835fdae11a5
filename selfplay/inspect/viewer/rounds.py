"""One round: what `show` says of it, with its charts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from selfplay.core.outcomes import SampleOutcome
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.viewer.background import BackgroundJobs
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.web.charts import Bin, Step, funnel, histogram
from selfplay.store.run import Store

_TITLES = {
    "alignment_potential": ("Alignment potential", "pairs"),
    "explicit_margin": ("Explicit margin", "pairs"),
    "implicit_margin": ("Implicit margin", "pairs"),
    "reward": ("Reward", "responses"),
    "gold_reward": ("Gold reward", "responses"),
    "num_tokens": ("Length in tokens", "responses"),
}
AT_ONCE = 20_000
"""Responses of a round up to which its page waits for everything."""
# about what the document and its charts take
_NUM_BYTES = 200_000


def round_document(store: Store, cache: Cache, later: BackgroundJobs, number: int) -> dict[str, Any]:
    """`show` (the document of `show --json`), `funnel` and `histograms` as drawings. What is counted from the tables of a large
    round is made beside the requests: until it is there, `counting` is true. Raises CorruptionError."""
    digests = tuple(store.digest_of(number, stage) for stage in store.committed(number))
    before = store.digest_of(number - 1, "evaluate") if number and store.is_committed(number - 1, "evaluate") else ""
    key = (digests, before, "round")

    def whole() -> dict[str, Any]:
        return cache.get(key, lambda: _document(store, number, tables=True), lambda _: _NUM_BYTES)

    sample = store.outcome_if_committed(number, SampleOutcome)
    if sample is None or sample.num_responses <= AT_ONCE or cache.has(key):
        return whole()
    later.begin(key, whole)
    return {**_document(store, number, tables=False), "counting": True}


def _document(store: Store, number: int, *, tables: bool) -> dict[str, Any]:
    show = show_document(store, number, tables=tables)
    steps = [Step(step["step"], step["unit"], step["count"]) for step in show["funnel"]]
    return {
        "show": show,
        "funnel": funnel("funnel", "From prompts to kept pairs", steps) if steps else None,
        "histograms": _histograms(show),
        "counting": False,
    }


def _histograms(show: dict[str, Any]) -> list[tuple[str, Markup, dict[str, Any]]]:
    selection = show["selection"] or {}
    found = []
    for name, (title, unit) in _TITLES.items():
        described = show["distributions"].get(name)
        if described is None:
            continue
        bins = [Bin(**row) for row in described["histogram"]]
        cut = selection.get("cut_value") if selection.get("metric") == name else None
        chart = histogram(f"d-{name}", title, bins, x_title=title.lower(), y_title=unit, cut=cut)
        found.append((title, chart, described))
    return found
