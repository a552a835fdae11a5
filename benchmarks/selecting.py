"""Benchmark `selecting`: `selfplay select` of a dataset of pairs with texts, as a user gives the command.

A million pairs of about 1.5 kilobytes of text each are read row by row, checked for repeats, ranked and written, with the record
and the formats of other trainers. Measured are the time and the peak memory of the whole command.
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import measured, peak_bytes
from benchmarks.figures import Given, Measured, alternate, median_of

PAIRS = 1_000_000
BAR_BYTES = 1.5e9
_AT_A_TIME = 50_000
_WORDS = 75  # of a response: about 670 bytes


def measure(given: Given) -> Measured:
    """Seconds and peak memory of the whole command."""
    num_pairs = given.scaled(PAIRS)
    peaks = []
    with given.scratch() as folder:
        table, result = folder / "pairs.parquet", folder / "result"
        made = measured("benchmarks.selecting", table, num_pairs)

        def command() -> float:
            found = measured("benchmarks.ranking_parts", "command", table, result)
            shutil.rmtree(result)
            peaks.append(found["peak_bytes"] / 1e9)
            return float(found["parts"]["command"]["seconds"])

        seconds = alternate({"command": command}, given.num_runs)["command"]
    work = f"{num_pairs:,} pairs, {made['text_bytes'] / 1e9:.2f} GB of text"
    figures = [
        median_of("selecting: whole command", seconds, "s", work),
        median_of("selecting: peak of memory", peaks, "GB", work, clock="none", bar=BAR_BYTES / 1e9),
    ]
    return Measured(figures, made)


def make(table: str, num_pairs: str) -> dict[str, Any]:
    """A Parquet file of pairs with texts and the numbers that alignment potential reads."""
    generator, writer, text_bytes = np.random.default_rng(0), None, 0
    words = np.array([f"word{number}" for number in range(5000)])
    # drawing words is slow: the texts of the first rows are used again, each with the number of its row
    drawn = words[generator.integers(0, len(words), (min(int(num_pairs), _AT_A_TIME), 2 * _WORDS + _WORDS // 3))]
    ends = {"prompt": (0, _WORDS // 3), "chosen": (_WORDS // 3, -_WORDS), "rejected": (-_WORDS, None)}
    texts = {name: [" ".join(row[slice(*end)]) for row in drawn.tolist()] for name, end in ends.items()}
    for start in range(0, int(num_pairs), _AT_A_TIME):
        num = min(_AT_A_TIME, int(num_pairs) - start)
        columns: dict[str, Any] = {}
        for name, found in texts.items():
            columns[name] = pa.array([f"{start + row} {text}" for row, text in enumerate(found[:num])])
            text_bytes += columns[name].nbytes
        for side, mean in (("chosen", 1.0), ("rejected", 0.0)):
            tokens = generator.integers(8, 800, num)
            columns |= {f"reward_{side}": generator.normal(mean, 1.0, num), f"num_tokens_{side}": tokens}
            columns[f"policy_logp_{side}"] = -generator.gamma(2.0, 0.4, num) * tokens
        piece = pa.table(columns)
        writer = writer or pq.ParquetWriter(table, piece.schema)
        writer.write_table(piece)
    assert writer is not None, "at least one pair is asked for"
    writer.close()
    return {"text_bytes": text_bytes}


if __name__ == "__main__":
    made = make(*sys.argv[1:])
    print(json.dumps({"make_peak_bytes": peak_bytes(), **made}))
