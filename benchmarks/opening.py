"""Benchmark `opening`: pages of a round of ten million pairs, by the commands as a user gives them.

Bar: a page in under 2 s, start-up included; nothing is loaded whole, so that the peak of memory does not grow with the round
(it stays under 0.6 GB, where one column of ids alone is as large as that). Seconds on a busy machine say little: the
processor's seconds are there to judge by, and what pyarrow's own scanner takes to read one column of numbers.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import measured

MODULE = "benchmarks.opening_parts"
BAR_SECONDS, BAR_BYTES = 2.0, 0.6e9
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


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The document; a summary goes to stdout."""
    folder = Path(tempfile.mkdtemp(prefix="selfplay-opening-", dir=given.folder))
    try:
        run = folder / "run"
        made = measured(MODULE, "make", run, given.rows)
        middle = str(made["num_pairs"] // 2)
        start = measured(MODULE, "command", "--version")
        pages = {
            name: measured(MODULE, "command", "pairs", run, 1, *(word.format(middle=middle) for word in options))
            for name, options in PAGES.items()
        }
        one = measured(MODULE, "command", "pair", run, made["pair_id"])
        column = measured(MODULE, "column", run, "explicit_margin")
    finally:
        shutil.rmtree(folder)
    least = column["parts"]["read"]["cpu_seconds"]
    document = {
        **{name: made[name] for name in ("num_pairs", "num_responses", "num_files", "table_bytes")},
        "start_up": start,
        "pages": pages,
        "one_pair": one,
        "one_column": column,
        "ratio_sorted_to_one_column": round(pages["sorted"]["cpu_seconds"] / least, 2) if least else None,
        "bar": {"seconds": BAR_SECONDS, "bytes": BAR_BYTES},
        "within_bar": all(
            page["seconds"] < BAR_SECONDS and page["peak_bytes"] < BAR_BYTES for page in (*pages.values(), one)
        ),
    }
    sys.stdout.write(_text(document) + "\n")
    return document


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"opening a round of {document['num_pairs']:,} pairs of {document['num_responses']:,} responses "
        f"({document['table_bytes'] / 1e6:,.0f} MB of Parquet in {document['num_files']:,} files)"
    ]
    rows = {
        "(start-up alone)": document["start_up"],
        **document["pages"],
        "one pair, all its responses": document["one_pair"],
    }
    for name, found in rows.items():
        used = f"{found['seconds']:6.2f} s   {found['cpu_seconds']:6.2f} s of processor"
        lines.append(f"  {name:<28} {used}   peak {found['peak_bytes'] / 1e6:,.0f} MB")
    column = document["one_column"]["parts"]["read"]
    lines.append(
        f"  {'one column by pyarrow':<28} {column['seconds']:6.2f} s   {column['cpu_seconds']:6.2f} s of processor"
    )
    lines.append(
        f"  bar of {BAR_SECONDS:.0f} s and {BAR_BYTES / 1e6:.0f} MB: {'held' if document['within_bar'] else 'missed'}"
    )
    return "\n".join(lines)
