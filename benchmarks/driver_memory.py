"""Benchmark `driver_memory`: what the driver needs for a round of a million prompts, stage by stage.

The tables of *prompts* and *sample* (8 responses of 200 tokens for each prompt) are made on disk. Then each stage runs in a
process of its own, with fake workers in that process. Bar: the memory of the process grows by less than 1.5 GB in each stage; in
*train*, up to the first optimizer step. What is measured is the peak of resident memory, Arrow's buffers and the items that are
under way included, less what is resident after the imports.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import measured

MODULE = "benchmarks.driver_memory_parts"
BAR_BYTES = 1.5e9
STAGES = ("score", "pair", "logprobs", "select", "train")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The document; a summary goes to stdout."""
    folder = Path(tempfile.mkdtemp(prefix="selfplay-driver-memory-", dir=given.folder))
    try:
        made = measured(MODULE, "make", folder, given.num_prompts)
        found = {}
        for stage in STAGES:
            found[stage] = measured(MODULE, stage, folder, given.num_prompts)
            sys.stderr.write(f"driver_memory: {stage} {found[stage]}\n")
    finally:
        shutil.rmtree(folder)
    document = {
        "num_prompts": given.num_prompts,
        **made,
        "stages": found,
        "bar": {"bytes": BAR_BYTES},
        "within_bar": all(stage["growth_bytes"] < BAR_BYTES for stage in found.values()),
    }
    sys.stdout.write(_text(document) + "\n")
    return document


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"driver memory for {document['num_prompts']:,} prompts, {document['num_responses']:,} responses "
        f"({document['table_bytes'] / 1e9:.1f} GB of Parquet; bar: growth of {document['bar']['bytes'] / 1e9:g} GB)"
    ]
    for name, found in document["stages"].items():
        verdict = "" if found["growth_bytes"] < document["bar"]["bytes"] else "   over the bar"
        lines.append(
            f"  {name:<9} growth {found['growth_bytes'] / 1e6:7,.0f} MB   peak {found['peak_bytes'] / 1e6:7,.0f} MB   "
            f"{found['seconds']:7.1f} s{verdict}"
        )
    return "\n".join(lines)
