"""Bars across: stacked (time by stage), and the funnel of a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selfplay.inspect.web.charts.frame import (
    WIDTH,
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

_ROW = 24


@dataclass(frozen=True, slots=True)
class Part:
    """A named series with a value for each row (None: there is none)."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel; bars of the same unit have the same scale."""

    name: str
    unit: str
    count: int


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
