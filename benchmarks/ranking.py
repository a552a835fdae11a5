"""Benchmark `ranking`: a table of pairs is read, ranked by alignment potential and written, part by part.

Bar: ten million pairs in under 8 s and 3 GB on two cores, reading and writing included as far as the disk allows. To
judge the disk, as many bytes as the result has are written plainly and flushed; to judge the ranking, the released rule
in bare numpy (z-scores, argsort, cut) runs on the same columns in a process of its own.
"""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks.child import measured
from benchmarks.figures import Figure, Given, Measured, alternate, median_of, ratios

MODULE = "benchmarks.ranking_parts"
BAR_SECONDS, BAR_BYTES = 8.0, 3e9
ROWS = 10_000_000


def measure(given: Given) -> Measured:
    """Seconds and peak memory of the package's functions and of the command, beside bare numpy and a plain write."""
    rows = given.scaled(ROWS)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": [], "disk": [], "command": []}
    with given.scratch() as folder:
        table, result, plain = folder / "table.parquet", folder / "result", folder / "plain"
        made = measured(MODULE, "make", table, rows)

        def part(name: str, *arguments: object) -> float:
            if result.exists():
                shutil.rmtree(result)
            found[name].append(measured(MODULE, name, *arguments))
            return sum(float(part["seconds"]) for part in found[name][-1]["parts"].values())

        part("ours", table, result)  # not counted: it says how many bytes are written
        size = found["ours"].pop()["result_bytes"]
        seconds = alternate(
            {
                "ours": lambda: part("ours", table, result),
                "bare": lambda: part("bare", table),
                "disk": lambda: part("disk", plain, size),
                "command": lambda: part("command", table, result),
            },
            given.num_runs,
        )
    ranked = [run["parts"]["rank"]["seconds"] for run in found["ours"]]
    rule = [run["parts"]["rule"]["seconds"] for run in found["bare"]]
    work = f"{rows:,} pairs, {made['table_bytes'] / 1e6:,.0f} MB of Parquet"
    peaks = {name: max(run["peak_bytes"] for run in found[name]) / 1e9 for name in ("ours", "command")}
    figures = [
        median_of("ranking: read, rank and write", seconds["ours"], "s", work, bar=BAR_SECONDS),
        Figure("ranking: peak of memory", peaks["ours"], "GB", work, BAR_BYTES / 1e9),
        median_of("ranking: whole command", seconds["command"], "s", work),
        Figure("ranking: whole command, peak of memory", peaks["command"], "GB", work),
        median_of("ranking: rank over bare numpy rule", ratios(ranked, rule), "ratio", work),
        median_of("ranking: all over bare read and rule", ratios(seconds["ours"], seconds["bare"]), "ratio", work),
        median_of("ranking: plain write of as many bytes", seconds["disk"], "s", f"{size / 1e6:,.0f} MB"),
    ]
    return Measured(figures, {**made, "result_bytes": size, "last": {name: runs[-1] for name, runs in found.items()}})
