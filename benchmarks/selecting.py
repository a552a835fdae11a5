"""Benchmark `selecting`: `selfplay select` of a dataset with texts, as a user gives the command.

A million pairs of about 1.5 kilobytes of text each are read row by row, checked for repeats, ranked and written, with the record
and the formats of other trainers. So are the pairs that are built of a million responses, four to a prompt. Measured are the
time and the peak memory of the whole command.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import measured, peak_bytes
from benchmarks.figures import Given, Measured, alternate, median_of

PAIRS = RESPONSES = 1_000_000
BAR_BYTES = 1.5e9
_AT_A_TIME = 50_000
_OF_PROMPT = 4  # responses
_WORDS = 75  # of a response: about 670 bytes


def measure(given: Given) -> Measured:
    """Seconds and peak memory of the whole command, for pairs as they are and for pairs that are built."""
    kinds = {
        "pairs": (given.scaled(PAIRS), "pairs", ()),
        "built": (given.scaled(RESPONSES), f"responses, {_OF_PROMPT} a prompt", ("--pairs", "best_worst")),
    }
    commands: dict[str, Callable[[], float]] = {}
    peaks: dict[str, list[float]] = {kind: [] for kind in kinds}
    works, facts = {}, {}
    with given.scratch() as folder:
        for kind, (number, what, rules) in kinds.items():
            table, result = folder / f"{kind}.parquet", folder / f"{kind}-result"
            facts[kind] = made = measured("benchmarks.selecting", kind, table, number)
            works[kind] = f"{number:,} {what}, {made['text_bytes'] / 1e9:.2f} GB of text"

            def command(kind: str = kind, table: Path = table, result: Path = result, rules: Any = rules) -> float:
                found = measured("benchmarks.ranking_parts", "command", table, result, *rules)
                shutil.rmtree(result)
                peaks[kind].append(found["peak_bytes"] / 1e9)
                return float(found["parts"]["command"]["seconds"])

            commands[kind] = command
        seconds = alternate(commands, given.num_runs)
    figures = []
    for kind, work in works.items():
        said = "" if kind == "pairs" else " (built pairs)"
        figures += [
            median_of(f"selecting: whole command{said}", seconds[kind], "s", work),
            median_of(f"selecting: peak of memory{said}", peaks[kind], "GB", work, clock="none", bar=BAR_BYTES / 1e9),
        ]
    return Measured(figures, facts)


def make(kind: str, table: str, number: str) -> dict[str, Any]:
    """A Parquet file with texts and the numbers that alignment potential reads: so many pairs or (`kind` "built") responses."""
    generator, writer, text_bytes = np.random.default_rng(0), None, 0
    words = np.array([f"word{number}" for number in range(5000)])
    # drawing words is slow: the texts of the first rows are used again, each with the number of its row
    drawn = words[generator.integers(0, len(words), (min(int(number), _AT_A_TIME), 2 * _WORDS + _WORDS // 3))]
    ends = {"prompt": (0, _WORDS // 3), "chosen": (_WORDS // 3, -_WORDS), "rejected": (-_WORDS, None)}
    texts = {name: [" ".join(row[slice(*end)]) for row in drawn.tolist()] for name, end in ends.items()}
    for start in range(0, int(number), _AT_A_TIME):
        num = min(_AT_A_TIME, int(number) - start)
        piece = pa.table((_pairs if kind == "pairs" else _responses)(texts, start, num, generator))
        text_bytes += sum(
            piece[name].nbytes for name in ("prompt", "chosen", "rejected", "response") if name in piece.column_names
        )
        writer = writer or pq.ParquetWriter(table, piece.schema)
        writer.write_table(piece)
    assert writer is not None, "at least one row is asked for"
    writer.close()
    return {"text_bytes": text_bytes}


def _pairs(texts: dict[str, list[str]], start: int, num: int, generator: np.random.Generator) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: pa.array([f"{start + row} {text}" for row, text in enumerate(found[:num])])
        for name, found in texts.items()
    }
    for side, mean in (("chosen", 1.0), ("rejected", 0.0)):
        columns |= {f"{name}_{side}": values for name, values in _numbers(num, mean, generator).items()}
    return columns


def _responses(texts: dict[str, list[str]], start: int, num: int, generator: np.random.Generator) -> dict[str, Any]:
    prompts = [(start + row) // _OF_PROMPT for row in range(num)]
    columns = {
        "prompt": pa.array([f"{prompt} {texts['prompt'][prompt % len(texts['prompt'])]}" for prompt in prompts]),
        "response": pa.array([f"{start + row} {text}" for row, text in enumerate(texts["chosen"][:num])]),
        "model": pa.array([f"model-{(start + row) % _OF_PROMPT}" for row in range(num)]),
    }
    return columns | _numbers(num, 0.0, generator)


def _numbers(num: int, mean: float, generator: np.random.Generator) -> dict[str, Any]:
    tokens = generator.integers(8, 800, num)
    rewards = generator.normal(mean, 1.0, num)
    return {"reward": rewards, "num_tokens": tokens, "policy_logp": -generator.gamma(2.0, 0.4, num) * tokens}


if __name__ == "__main__":
    made = make(*sys.argv[1:])
    print(json.dumps({"make_peak_bytes": peak_bytes(), **made}))
