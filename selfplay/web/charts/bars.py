"""Bars: beside each other (a few numbers by round), stacked across (time by stage), and the funnel of a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selfplay.web.charts.frame import (
    WIDTH,
    Plot,
    Scale,
    colour,
    drawing,
    legend,
    line,
    nice_ticks,
    rect,
    shorten,
    text,
    tick_text,
    width_of,
)

_TOP, _HEIGHT, _ROW = 24, 160, 24


@dataclass(frozen=True, slots=True)
class Part:
    """A named series with a value for each group or row (None: there is none)."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel; bars of the same unit have the same scale."""

    name: str
    unit: str
    count: int


def grouped_bars(
    name: str,
    title: str,
    groups: Sequence[str],
    parts: Sequence[Part],
    *,
    x_title: str,
    y_title: str,
    show: Callable[[float], str] = tick_text,
) -> Markup:
    """A bar for each series in each group, from 0 up. There is at least one value."""
    values = [value for part in parts for value in part.values if value is not None]
    ys = nice_ticks(min(0.0, *values), max(0.0, *values), 5)
    plot = Plot.of([-0.5, len(groups) - 0.5], ys, top=_TOP, height=_HEIGHT)
    drawn = plot.axes([], ys, x_title, y_title)
    slot = (plot.x.end - plot.x.start) / len(groups)
    every = max(1, round(max(width_of(group) for group in groups) / slot + 0.3))
    width = min(26.0, slot * 0.8 / len(parts))
    for index, group in enumerate(groups):
        middle = plot.x(index)
        if index % every == 0:
            drawn.append(text(middle, plot.y.start + 16, group, "tick mid"))
        for number, part in enumerate(parts):
            value = part.values[index]
            if value is None:
                continue
            left = middle + (number - len(parts) / 2) * width
            top, bottom = sorted((plot.y(value), plot.y(0)))
            tip = f"{part.name}, {x_title} {group}: {show(value)}"
            drawn.append(rect(left + 0.5, top, width - 1, bottom - top, f"fill {colour(number)}", tip))
            if width >= width_of(show(value)):
                drawn.append(text(left + width / 2, top - 3, show(value), "bar-label mid"))
    marks, end = legend(
        [("box", f"fill {colour(n)}", part.name) for n, part in enumerate(parts)], _TOP + _HEIGHT + 38.0
    )
    return drawing(name, title, _words(groups, parts, x_title, show), end + 2, [*drawn, *marks])


def stacked_bars(
    name: str,
    title: str,
    rows: Sequence[str],
    parts: Sequence[Part],
    *,
    row_title: str,
    x_title: str,
    show: Callable[[float], str] = tick_text,
) -> Markup:
    """A bar across for each row, made of the series. There is at least one row."""
    totals = [sum(part.values[index] or 0 for part in parts) for index in range(len(rows))]
    ticks = nice_ticks(0, max(*totals, 1e-9), 5)
    left = min(130.0, max(width_of(row) for row in rows) + 10)
    room = max(width_of(show(total)) for total in totals) + 10
    x = Scale(0, ticks[-1], left, WIDTH - room)
    bottom = 18.0 + _ROW * len(rows)
    drawn = [text(0, 10, row_title, "unit")]
    for tick in ticks:
        drawn.append(line(x(tick), 16, x(tick), bottom, "grid-line"))
        drawn.append(text(x(tick), bottom + 14, tick_text(tick), "tick mid"))
    drawn.append(text((x.start + x.end) / 2, bottom + 30, x_title, "unit mid"))
    for index, row in enumerate(rows):
        y, done = 18.0 + _ROW * index, 0.0
        drawn.append(text(left - 8, y + 15, shorten(row, left - 8), "end"))
        for number, part in enumerate(parts):
            value = part.values[index] or 0
            width = x(done + value) - x(done)
            if width > 0:
                tip = f"{row}, {part.name}: {show(value)}"
                drawn.append(rect(x(done), y + 3, max(width - 0.5, 0.5), _ROW - 7, f"fill {colour(number)}", tip))
            done += value
        drawn.append(text(x(done) + 5, y + 15, show(totals[index]), "tick"))
    marks, end = legend([("box", f"fill {colour(n)}", part.name) for n, part in enumerate(parts)], bottom + 36)
    return drawing(name, title, _words(rows, parts, row_title, show), end + 2, [*drawn, *marks])


def funnel(name: str, title: str, steps: Sequence[Step]) -> Markup:
    """A bar across for each step, as long as its share of the largest step of its unit. There is at least one step."""
    left = max(width_of(step.name) for step in steps) + 10
    counts = [f"{step.count} {step.unit}" for step in steps]
    x = Scale(0, 1, left, WIDTH - max(width_of(words) for words in counts) - 10)
    units = list(dict.fromkeys(step.unit for step in steps))
    most = {unit: max(max(step.count for step in steps if step.unit == unit), 1) for unit in units}
    drawn: list[Markup] = []
    for index, (step, words) in enumerate(zip(steps, counts, strict=True)):
        y, share = _ROW * index, step.count / most[step.unit]
        drawn.append(text(left - 8, y + 15, step.name, "end"))
        drawn.append(rect(x(0), y + 3, x(1) - x(0), _ROW - 7, "track"))
        drawn.append(
            rect(x(0), y + 3, x(share) - x(0), _ROW - 7, f"fill s{units.index(step.unit)}", f"{words} ({share:.0%})")
        )
        drawn.append(text(x(1) + 6, y + 15, words, "tick"))
    return drawing(name, title, ", ".join(f"{step.name}: {words}" for step, words in zip(steps, counts, strict=True)) + ".",
                   _ROW * len(steps) + 2, drawn)  # fmt: skip


def _words(groups: Sequence[str], parts: Sequence[Part], title: str, show: Callable[[float], str]) -> str:
    said = []
    for index, group in enumerate(groups):
        values = [(part.name, part.values[index]) for part in parts]
        said.append(
            f"{title} {group}: " + ", ".join(f"{name} {show(value)}" for name, value in values if value is not None)
        )
    return "; ".join(said) + "."
