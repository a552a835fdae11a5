"""Distributions of a round's numbers, as a few moments and a histogram (`show`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.core import magnitudes
from selfplay.store.run import Store

BINS = 12

# name -> (stage, column)
_COLUMNS = {
    "reward": ("score", "reward"),
    "gold_reward": ("score", "gold_reward"),
    "num_tokens": ("sample", "num_tokens"),
    "explicit_margin": ("select", "explicit_margin"),
    "implicit_margin": ("select", "implicit_margin"),
    "alignment_potential": ("select", "alignment_potential"),
}


def distributions(store: Store, round_number: int, most: int | None = None) -> dict[str, Any]:
    """Name -> `describe` with `num_rows` of the table and `num_seen` of them, of the columns whose stage is committed and that
    hold a number; pairs split into kept and dropped. `most`: where a table has more rows, about as many are seen, evenly
    spread (None: all)."""
    found: dict[str, Any] = {}
    for name, (stage, column) in _COLUMNS.items():
        if not store.is_committed(round_number, stage):
            continue
        columns = [column, "kept"] if stage == "select" else [column]
        stored = store.lazy_table(round_number, stage)
        table = stored.sample(columns, stored.num_rows if most is None else most)
        kept = table["kept"].to_numpy() if stage == "select" else None
        described = describe(table[column], kept)
        if described is not None:
            found[name] = {"num_rows": stored.num_rows, "num_seen": table.num_rows, **described}
    return found


def floats(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A column of numbers as float64, NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def describe(column: pa.ChunkedArray, kept: np.ndarray[Any, Any] | None = None) -> dict[str, Any] | None:
    """count, mean, std, min, median, max and `histogram` (rows of low, high, count, and num_kept where `kept` is
    given) of the finite values; None without a finite value."""
    values = floats(column)
    inside = np.isfinite(values)
    if not inside.any():
        return None
    chosen = kept[inside].astype(bool) if kept is not None else None
    values = values[inside]
    counts, edges = np.histogram(values, bins=_edges(values, whole=pa.types.is_integer(column.type)))
    rows: list[dict[str, Any]] = [
        {"low": float(low), "high": float(high), "count": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    if chosen is not None:
        for row, count in zip(rows, np.histogram(values[chosen], bins=edges)[0], strict=True):
            row["num_kept"] = int(count)
    return {
        "count": len(values),
        "mean": magnitudes.mean(values),
        "std": magnitudes.std(values),
        "min": float(values.min()),
        "median": magnitudes.quantiles(values, (0.5,))[0],
        "max": float(values.max()),
        "histogram": rows,
    }


def _edges(values: np.ndarray[Any, Any], *, whole: bool) -> np.ndarray[Any, Any]:
    """Edges of at most BINS bins of one width; of whole numbers each bin takes equally many. Numbers that lie too close together
    for so many have fewer."""
    if not whole:
        return magnitudes.bin_edges(float(values.min()), float(values.max()), BINS)
    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // BINS)
    return np.arange(low, high + width + 1, width, dtype=np.float64)
