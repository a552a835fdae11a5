"""Two numbers of every pair against each other, kept pairs marked; many pairs become squares of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from selfplay.core import magnitudes
from selfplay.inspect.web.charts.frame import Plot, classes, drawing, legend, line, nice_ticks

LIMIT = 1200
"""Points that are drawn one by one; above it they are counted by the squares of a grid."""
_TOP, _HEIGHT = 24, 230
_COLUMNS, _ROWS, _SHADES = 36, 24, 6
# a few far values would press all others into a corner: they are drawn at the edge
_BULK = (0.002, 0.998)

Floats = NDArray[np.float64]


def scatter(
    name: str,
    title: str,
    x_P: Floats,
    y_P: Floats,
    kept_P: NDArray[np.bool_],
    *,
    x_title: str,
    y_title: str,
    diagonal: bool = False,
) -> Markup:
    """P points, of which the finite ones are drawn (there is at least one). `diagonal` draws the line of equal values."""
    finite_P = np.isfinite(x_P) & np.isfinite(y_P)
    x, y, kept = x_P[finite_P], y_P[finite_P], kept_P[finite_P]
    xs, ys = _ticks(x, y, diagonal)
    plot = Plot.of(xs, ys, top=_TOP, height=_HEIGHT)
    parts = plot.axes(xs, ys, x_title, y_title)
    if diagonal:
        low, high = max(xs[0], ys[0]), min(xs[-1], ys[-1])
        parts.append(line(plot.x(low), plot.y(low), plot.x(high), plot.y(high), "cut-line"))
    outside = int(((x < xs[0]) | (x > xs[-1]) | (y < ys[0]) | (y > ys[-1])).sum())
    across, up = np.clip(x, xs[0], xs[-1]), np.clip(y, ys[0], ys[-1])
    if len(x) <= LIMIT:
        parts += [
            _dots(plot, across[side], up[side], style) for side, style in ((~kept, "dots rest-dots"), (kept, "dots s0"))
        ]
        entries = [("dot", "fill s0", "kept"), ("dot", "rest-dot", "dropped")]
    else:
        parts += _grid(plot, across, up, kept)
        entries = [
            ("box", "fill s0", "share of the pairs there that was kept"),
            ("box", "shade", "the stronger the grey, the more pairs"),
        ]
    marks, end = legend(entries, _TOP + _HEIGHT + 38.0)
    words = f"{len(x)} pairs, {int(kept.sum())} of them kept."
    for axis, values in ((x_title, x), (y_title, y)):
        words += f" Mean {axis}: {magnitudes.mean(values):.3g} (kept: {_mean(values[kept])})."
    words += f" {outside} lie outside and are drawn at the edge." if outside else ""
    return drawing(name, title, words, end + 2, [*parts, *marks])


def _mean(values: Floats) -> str:
    return f"{magnitudes.mean(values):.3g}" if len(values) else "none"


def _ticks(x: Floats, y: Floats, diagonal: bool) -> tuple[list[float], list[float]]:
    bounds = [
        tuple(magnitudes.quantiles(values, _BULK)) if len(values) > LIMIT else (values.min(), values.max())
        for values in (x, y)
    ]
    if diagonal:  # the same numbers on both axes
        bounds = [(min(low for low, _ in bounds), max(high for _, high in bounds))] * 2
    return nice_ticks(float(bounds[0][0]), float(bounds[0][1])), nice_ticks(float(bounds[1][0]), float(bounds[1][1]))


def _dots(plot: Plot, x: Floats, y: Floats, style: str) -> Markup:
    """All in one path of round-capped lines without length: a tenth of the size of as many circles."""
    places = "".join(f"M{plot.x(a):.1f} {plot.y(b):.1f}h0" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return Markup('<path d="{}"{}/>').format(places or "M0 0", classes(style))


def _grid(plot: Plot, x: Floats, y: Floats, kept: NDArray[np.bool_]) -> list[Markup]:
    edges: Any = [
        magnitudes.bin_edges(min(scale.low, scale.high), max(scale.low, scale.high), num)
        for scale, num in ((plot.x, _COLUMNS), (plot.y, _ROWS))
    ]
    all_CR, *_ = np.histogram2d(x, y, bins=edges)
    kept_CR, *_ = np.histogram2d(x[kept], y[kept], bins=edges)
    width, height = (plot.x.end - plot.x.start) / _COLUMNS, (plot.y.start - plot.y.end) / _ROWS
    # by the logarithm, so that a square of one pair still shows beside one of thousands
    shade_CR = np.ceil(_SHADES * np.log1p(all_CR) / np.log1p(all_CR.max())).astype(np.int64)
    parts = []
    for shade in range(1, _SHADES + 1):
        path = "".join(
            _square(plot.x.start + column * width, plot.y.start - (row + 1) * height, width, height, 1.0)
            for column, row in np.argwhere(shade_CR == shade).tolist()
        )
        if path:
            parts.append(Markup('<path d="{}" class="shade" opacity="{}"/>').format(path, f"{shade / _SHADES:.2f}"))
    path = "".join(
        _square(
            plot.x.start + column * width, plot.y.start - (row + 1) * height, width, height,
            float(np.sqrt(kept_CR[column, row] / all_CR[column, row])),
        )
        for column, row in np.argwhere(kept_CR > 0).tolist()
    )  # fmt: skip
    return [*parts, Markup('<path d="{}" class="fill s0"/>').format(path or "M0 0")]


def _square(x: float, y: float, width: float, height: float, side: float) -> str:
    """A rectangle in the middle of a cell, whose sides are `side` of the cell's."""
    w, h = 0.92 * width * side, 0.92 * height * side
    return f"M{x + (width - w) / 2:.1f} {y + (height - h) / 2:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z"
