"""Benchmark `driver_memory`: what the driver needs for a round of a million prompts, stage by stage.

The tables of *prompts* and *sample* (8 responses of 500 tokens for each prompt) are made on disk. Then each stage runs in a
process of its own, with fake workers in that process. Bar: the memory of the process grows by less than 1.5 GB in each stage; in
*train*, up to the first optimizer step. What is measured is the peak of resident memory, Arrow's buffers and the items that are
under way included, less what is resident after the imports.
"""

from __future__ import annotations

import sys

from benchmarks.child import measured
from benchmarks.figures import Figure, Given, Measured

MODULE = "benchmarks.driver_memory_parts"
BAR_BYTES = 1.5e9
PROMPTS = 1_000_000
STAGES = ("score", "pair", "logprobs", "select", "train")


def measure(given: Given) -> Measured:
    """How much the memory of each stage's process grows."""
    num_prompts, found = given.scaled(PROMPTS), {}
    with given.scratch() as folder:
        made = measured(MODULE, "make", folder, num_prompts)
        for stage in STAGES:
            found[stage] = measured(MODULE, stage, folder, num_prompts)
            sys.stderr.write(f"driver_memory: {stage} {found[stage]}\n")
    work = (
        f"{num_prompts:,} prompts, {made['num_responses']:,} responses, {made['table_bytes'] / 1e9:.1f} GB of Parquet"
    )
    figures = [
        Figure(f"driver memory: growth in {stage}", each["growth_bytes"] / 1e9, "GB", work, BAR_BYTES / 1e9)
        for stage, each in found.items()
    ]
    return Measured(figures, {**made, "stages": found})
