"""Benchmark `selecting`: `selfplay select` of a dataset of pairs with texts, as a user gives the command.

A million pairs of about 1.5 kilobytes of text each are read row by row, checked for repeats, ranked and written, with the record
and the formats of other trainers. Measured are the time and the peak memory of the whole command. `bytes_per_pair` is the peak
over the number of pairs: what a larger dataset takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import measured, peak_bytes

_AT_A_TIME = 50_000
_WORDS = 75  # of a response: about 670 bytes


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The document; a summary goes to stdout."""
    folder = Path(tempfile.mkdtemp(prefix="selfplay-selecting-", dir=given.folder))
    try:
        table = folder / "pairs.parquet"
        made = measured("benchmarks.selecting", table, given.num_pairs)
        command = measured("benchmarks.ranking_parts", "command", table, folder / "result")
    finally:
        shutil.rmtree(folder)
    document = {"num_pairs": given.num_pairs, **made, **command}
    document["bytes_per_pair"] = round(command["peak_bytes"] / given.num_pairs)
    sys.stdout.write(
        f"selecting from {given.num_pairs:,} pairs with texts ({made['text_bytes'] / 1e6:,.0f} MB of text)\n"
        f"  whole command          {command['seconds']:7.2f} s   peak {command['peak_bytes'] / 1e9:.2f} GB "
        f"({document['bytes_per_pair']:,} bytes a pair)\n"
    )
    return document


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
