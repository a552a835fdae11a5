"""Benchmark `ranking`: a table of pairs is read, ranked by alignment potential and written, part by part.

Bar: ten million pairs in under 8 s and 3 GB on two cores, reading and writing included as far as the disk allows. To
judge the disk, as many bytes as the result has are written plainly and flushed; to judge the ranking, the released rule
in bare numpy (z-scores, argsort, cut) runs on the same columns in a process of its own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import measured

MODULE = "benchmarks.ranking_parts"
BAR_SECONDS, BAR_BYTES = 8.0, 3e9


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The document; a summary goes to stdout."""
    folder = Path(tempfile.mkdtemp(prefix="selfplay-ranking-", dir=given.folder))
    try:
        table = folder / "table.parquet"
        made = measured(MODULE, "make", table, given.rows)
        bare = measured(MODULE, "bare", table)
        ours = measured(MODULE, "ours", table, folder / "result")
        disk = measured(MODULE, "disk", folder / "plain", ours["result_bytes"])
        command = measured(MODULE, "command", table, folder / "command")
    finally:
        shutil.rmtree(folder)
    parts = ours["parts"]
    total = sum(part["seconds"] for part in parts.values())
    rule = bare["parts"]["rule"]["seconds"]
    document = {
        "rows": given.rows,
        "table_bytes": made["table_bytes"],
        "result_bytes": ours["result_bytes"],
        "ours": {**ours, "seconds": round(total, 3)},
        "command": command,
        "bare_numpy": bare,
        "plain_write_seconds": disk["parts"]["disk"]["seconds"],
        "ratio_rank_to_bare_rule": round(parts["rank"]["seconds"] / rule, 2),
        "ratio_all_to_bare_read_and_rule": round(total / sum(part["seconds"] for part in bare["parts"].values()), 2),
        "bar": {"seconds": BAR_SECONDS, "bytes": BAR_BYTES},
        "within_bar": total < BAR_SECONDS and ours["peak_bytes"] < BAR_BYTES,
    }
    sys.stdout.write(_text(document) + "\n")
    return document


def _text(document: dict[str, Any]) -> str:
    ours, bare, command = document["ours"], document["bare_numpy"], document["command"]
    lines = [f"ranking {document['rows']:,} pairs ({document['table_bytes'] / 1e6:,.0f} MB of Parquet)"]
    lines += [
        f"  {name:<22} {part['seconds']:7.2f} s   {part['cpu_seconds']:7.2f} s of processor"
        for name, part in ours["parts"].items()
    ]
    lines.append(f"  {'all':<22} {ours['seconds']:7.2f} s   peak {ours['peak_bytes'] / 1e9:.2f} GB")
    lines.append(f"  whole command          {command['seconds']:7.2f} s   peak {command['peak_bytes'] / 1e9:.2f} GB")
    rule = bare["parts"]["rule"]["seconds"]
    lines.append(
        f"  bare numpy rule        {rule:7.2f} s   peak {bare['peak_bytes'] / 1e9:.2f} GB; "
        f"our ranking takes {document['ratio_rank_to_bare_rule']} times as long"
    )
    lines.append(
        f"  plain write            {document['plain_write_seconds']:7.2f} s   of {document['result_bytes'] / 1e6:,.0f} MB"
    )
    lines.append(
        f"  bar of {BAR_SECONDS:.0f} s and {BAR_BYTES / 1e9:.0f} GB: {'held' if document['within_bar'] else 'missed'}"
    )
    return "\n".join(lines)
