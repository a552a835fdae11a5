"""One round: what `show` says of it, with its charts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from selfplay.inspect.reading import stages_of
from selfplay.inspect.show import show_document
from selfplay.store.run import Store
from selfplay.viewer.cache import Cache
from selfplay.web.charts import Bin, Step, funnel, histogram

_TITLES = {
    "alignment_potential": ("Alignment potential", "pairs"),
    "explicit_margin": ("Explicit margin", "pairs"),
    "implicit_margin": ("Implicit margin", "pairs"),
    "reward": ("Reward", "responses"),
    "gold_reward": ("Gold reward", "responses"),
    "num_tokens": ("Length in tokens", "responses"),
}
# about what the document and its charts take
_NUM_BYTES = 200_000


def round_document(store: Store, cache: Cache, number: int) -> dict[str, Any]:
    """`show` (the document of `show --json`), `funnel` and `histograms` as drawings. Raises CorruptionError."""
    committed = [stage for stage in stages_of(number) if store.is_committed(number, stage)]
    digests = tuple(store.digest_of(number, stage) for stage in committed)
    before = store.digest_of(number - 1, "evaluate") if number and store.is_committed(number - 1, "evaluate") else ""
    return cache.get((digests, before, "round"), lambda: _document(store, number), lambda _: _NUM_BYTES)


def _document(store: Store, number: int) -> dict[str, Any]:
    show = show_document(store, number)
    steps = [Step(step["step"], step["unit"], step["count"]) for step in show["funnel"]]
    return {
        "show": show,
        "funnel": funnel("funnel", "From prompts to kept pairs", steps) if steps else None,
        "histograms": _histograms(show),
    }


def _histograms(show: dict[str, Any]) -> list[tuple[str, Markup, dict[str, Any]]]:
    selection = show["selection"] or {}
    found = []
    for name, (title, unit) in _TITLES.items():
        described = show["distributions"].get(name)
        if described is None:
            continue
        bins = [Bin(row["low"], row["high"], row["count"], row.get("num_kept")) for row in described["histogram"]]
        cut = selection.get("cut_value") if selection.get("metric") == name else None
        chart = histogram(f"d-{name}", title, bins, x_title=title.lower(), y_title=unit, cut=cut)
        found.append((title, chart, described))
    return found
