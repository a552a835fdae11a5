"""Benchmark `opening`: pages of a round of ten million pairs, by the commands as a user gives them.

Bar: a page in under 2 s, start-up included; nothing is loaded whole, so that the peak of memory does not grow with the round
(it stays under 0.6 GB, where one column of ids alone is as large as that). Seconds on a busy machine say little: the details have
the processor's seconds, and what pyarrow's own scanner takes to read one column of numbers.
"""

from __future__ import annotations

from functools import partial

from benchmarks.child import measured
from benchmarks.figures import Figure, Given, Measured, alternate, median_of

MODULE = "benchmarks.opening_parts"
BAR_SECONDS, BAR_BYTES = 2.0, 0.6e9
ROWS = 10_000_000
# what is opened; the bar is for these
PAGES: dict[str, tuple[str, ...]] = {
    "best pairs": (),
    "with their texts": ("--content",),
    "from the middle on": ("--offset", "{middle}"),
    "sorted": ("--sort", "explicit_margin"),
    "sorted by id": ("--sort", "pair_id"),
    "filtered": ("--where", "alignment_potential > 0.5 and not kept"),
    "filtered and sorted": ("--where", "explicit_margin > 1 and kept", "--sort", "reward_chosen"),
    "sorted, with texts": ("--sort", "explicit_margin", "--content"),
}


def measure(given: Given) -> Measured:
    """Seconds and peak memory of each page."""
    with given.scratch() as folder:
        run = folder / "run"
        made = measured(MODULE, "make", run, given.scaled(ROWS))
        middle = str(made["num_pairs"] // 2)
        lines = {
            name: ("pairs", run, 1, *(word.format(middle=middle) for word in options))
            for name, options in PAGES.items()
        }
        lines["one pair, all its responses"] = ("pair", run, made["pair_id"])
        last = {}

        def page(name: str) -> float:
            last[name] = measured(MODULE, "command", *lines[name])
            return float(last[name]["seconds"])

        seconds = alternate({name: partial(page, name) for name in lines}, given.num_runs)
        column = measured(MODULE, "column", run, "explicit_margin")
    work = f"{made['num_pairs']:,} pairs of {made['num_responses']:,} responses, {made['table_bytes'] / 1e9:.1f} GB"
    figures = [median_of(f"opening: {name}", found, "s", work, bar=BAR_SECONDS) for name, found in seconds.items()]
    peak = max(float(found["peak_bytes"]) for found in last.values())
    figures.append(Figure("opening: largest peak of memory", peak / 1e9, "GB", work, BAR_BYTES / 1e9))
    return Measured(figures, {**made, "pages": last, "one_column_by_pyarrow": column})
