"""A histogram of kept and dropped values, with the cut between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selfplay.inspect.web.charts.frame import (
    Plot,
    are_near,
    drawing,
    legend,
    line,
    nice_ticks,
    rect,
    text,
    tick_text,
    width_of,
)

_TOP, _HEIGHT = 24, 150


@dataclass(frozen=True, slots=True)
class Bin:
    """Values from low to high; `num_kept` of them were kept (None: nothing is kept or dropped here)."""

    low: float
    high: float
    count: int
    num_kept: int | None = None


def histogram(
    name: str, title: str, bins: Sequence[Bin], *, x_title: str, y_title: str = "pairs", cut: float | None = None
) -> Markup:
    """Bars by bin, kept values at the bottom; `cut` gets a dashed line. There is at least one bin."""
    ys = nice_ticks(0, max(max(part.count for part in bins), 1), 5)
    low, high = bins[0].low, bins[-1].high
    narrow = are_near(low, high)
    bounds = [nice_ticks(low, high)[0], nice_ticks(low, high)[-1]] if narrow else [low, high]
    if cut is not None:
        bounds = [min(bounds[0], cut), max(bounds[1], cut)]
    plot = Plot.of(bounds, ys, top=_TOP, height=_HEIGHT)
    xs = [tick for tick in nice_ticks(bounds[0], bounds[1]) if bounds[0] <= tick <= bounds[1]]
    parts = plot.axes(xs, ys, x_title, y_title)
    split = any(part.num_kept is not None for part in bins)
    for part in bins:
        left, right = (plot.x(low) - 12, plot.x(low) + 12) if narrow else (plot.x(part.low), plot.x(part.high))
        kept = part.num_kept or 0
        tip = f"{tick_text(part.low)} to {tick_text(part.high)}: {part.count}" + (f", {kept} kept" if split else "")
        base = plot.y(kept)
        rest = "rest" if split else "fill s0"
        parts.append(rect(left + 0.5, plot.y(part.count), right - left - 1, base - plot.y(part.count), rest, tip))
        parts.append(rect(left + 0.5, base, right - left - 1, plot.y(0) - base, "fill s0", tip))
    if cut is not None:
        x = plot.x(cut)
        words = f"cut {tick_text(cut)}"
        parts.append(line(x, _TOP - 10, x, plot.y(0), "cut-line"))
        flip = x + width_of(words) + 6 > plot.x.end
        parts.append(text(x - 4 if flip else x + 4, _TOP - 3, words, "strong end" if flip else "strong"))
    end = _TOP + _HEIGHT + 38.0
    if split:
        entries, end = legend([("box", "fill s0", "kept"), ("box", "rest", "dropped")], end)
        parts += entries
    return drawing(name, title, _words(bins, x_title, split, cut), end + 2, parts)


def _words(bins: Sequence[Bin], x_title: str, split: bool, cut: float | None) -> str:
    total = sum(part.count for part in bins)
    kept = f", {sum(part.num_kept or 0 for part in bins)} of them kept" if split else ""
    most = max(bins, key=lambda part: part.count)
    words = f"{total} values of {x_title} from {tick_text(bins[0].low)} to {tick_text(bins[-1].high)}{kept}; most lie between "
    words += f"{tick_text(most.low)} and {tick_text(most.high)}."
    return words + (f" The cut is at {tick_text(cut)}." if cut is not None else "")
