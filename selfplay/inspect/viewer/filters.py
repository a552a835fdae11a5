"""The filters of the pair browser: for each column of numbers its bounds and a small histogram, what matches in front of all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from selfplay.core.magnitudes import bin_edges
from selfplay.inspect.query.where import Rows
from selfplay.inspect.viewer.query import Query, short
from selfplay.inspect.viewer.rows import RowSet
from selfplay.inspect.web.charts.frame import drawing, line, text, tick_text

RANGED = (
    "alignment_potential", "explicit_margin", "implicit_margin", "metric_value", "reward_chosen", "reward_rejected",
    "num_tokens_chosen", "num_tokens_rejected",
)  # fmt: skip
BINS = 32
_WIDTH, _HEIGHT = 400.0, 64.0


@dataclass(frozen=True, slots=True)
class Bins:
    """A column cut into bins of one width: which bin each row is in (BINS: no value), and how many rows each bin has."""

    edges: np.ndarray[tuple[int], np.dtype[np.float64]]
    bin_of_row: np.ndarray[tuple[int], np.dtype[np.uint8]]
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]

    @property
    def nbytes(self) -> int:
        return int(self.edges.nbytes + self.bin_of_row.nbytes + self.counts.nbytes)


@dataclass(frozen=True, slots=True)
class RangeFilter:
    """A filter as the page shows it."""

    column: str
    low: str
    high: str
    smallest: float
    largest: float
    chart: Markup
    is_set: bool


def ranged_columns(rows: RowSet) -> list[str]:
    """The columns of numbers that can be filtered by a range: those of the table that hold more than one value."""
    return rows.cache.get((rows.key, "ranged"), lambda: _ranged(rows), lambda names: 64 * len(names))


def _ranged(rows: RowSet) -> list[str]:
    found = []
    for name in RANGED:
        if name not in rows.schema.names:
            continue
        values = rows.numbers(name)
        values = values[np.isfinite(values)]
        if len(values) and values.min() < values.max():
            found.append(name)
    if {"metric_value", "alignment_potential"} <= {*found} and rows.column("metric_value").equals(
        rows.column("alignment_potential")
    ):
        found.remove("metric_value")
    return found


def range_filters(rows: RowSet, query: Query, matching: Rows) -> list[RangeFilter]:
    """A filter for each column."""
    found = []
    for column in ranged_columns(rows):
        bins = _bins(rows, column)
        part = query.range_of(column)
        num_bins = len(bins.counts)
        counts = np.bincount(bins.bin_of_row[matching], minlength=num_bins + 1)[:num_bins]
        found.append(
            RangeFilter(
                column=column,
                low=short(part.low),
                high=short(part.high),
                smallest=float(bins.edges[0]),
                largest=float(bins.edges[-1]),
                chart=_chart(column, bins, counts),
                is_set=part.low is not None or part.high is not None,
            )
        )
    return found


def reasons(rows: RowSet) -> list[tuple[str, int]]:
    """Why pairs were dropped, the most frequent first."""
    if "drop_reason" not in rows.schema.names:
        return []
    return rows.cache.get(
        (rows.key, "reasons"), lambda: _reasons(rows.column("drop_reason")), lambda found: 64 * len(found)
    )


def _reasons(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    counted = [(item["values"], item["counts"]) for item in pc.value_counts(column.drop_null()).to_pylist()]
    return sorted(counted, key=lambda item: (-item[1], item[0]))


def _bins(rows: RowSet, column: str) -> Bins:
    def make() -> Bins:
        values = rows.numbers(column)
        inside = np.isfinite(values)
        low, high = float(values[inside].min()), float(values[inside].max())
        edges = bin_edges(low, high, BINS)
        num_bins = len(edges) - 1
        index = np.full(len(values), num_bins, dtype=np.uint8)
        index[inside] = np.clip(np.searchsorted(edges, values[inside], "right") - 1, 0, num_bins - 1)
        return Bins(edges, index, np.bincount(index, minlength=num_bins + 1)[:num_bins])

    return rows.cache.get((rows.key, "bins", column), make)


def _chart(column: str, bins: Bins, matching: Rows) -> Markup:
    most = max(int(bins.counts.max()), 1)
    width = _WIDTH / len(bins.counts)
    parts: list[Markup] = []
    for index, (count, inside) in enumerate(zip(bins.counts.tolist(), matching.tolist(), strict=True)):
        if not count:
            continue
        tip = f"{tick_text(bins.edges[index])} to {tick_text(bins.edges[index + 1])}: {inside} of {count}"
        # a square root, so that a few pairs beside thousands can be seen
        tall, short = (max(_HEIGHT * (part / most) ** 0.5, 1.5) if part else 0.0 for part in (count, inside))
        parts += _bar(index * width, width, _HEIGHT - tall, tall - short, "rest", tip)
        parts += _bar(index * width, width, _HEIGHT - short, short, "fill s0", tip)
    parts.append(line(0, _HEIGHT, _WIDTH, _HEIGHT, "axis"))
    parts.append(text(0, _HEIGHT + 20, tick_text(bins.edges[0]), "tick"))
    parts.append(text(_WIDTH, _HEIGHT + 20, tick_text(bins.edges[-1]), "tick end"))
    words = (
        f"{int(np.sum(matching))} of {int(bins.counts.sum())} pairs match; from {tick_text(bins.edges[0])} "
        f"to {tick_text(bins.edges[-1])}. Heights are square roots of counts."
    )
    return drawing(f"h-{column}", f"Distribution of {column}", words, _HEIGHT + 26, parts)


def _bar(x: float, width: float, y: float, height: float, style: str, tip: str) -> list[Markup]:
    """A bar where there is one: of numbers alone, so that nothing needs escaping (a page has hundreds of them)."""
    if not height:
        return []
    place = f'x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height:.1f}"'
    return [Markup(f'<rect {place} class="{style}"><title>{tip}</title></rect>')]
