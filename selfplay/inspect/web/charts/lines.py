"""Curves with intervals over rounds or steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selfplay.inspect.web.charts.frame import (
    NUM_COLOURS,
    NUM_DASHES,
    Plot,
    classes,
    colour,
    drawing,
    legend,
    line,
    marker,
    nice_ticks,
    tick_text,
)

# above so many points of a curve, or of all, there are no markers and no interval bars; above so many a curve is thinned
_MARKED, _MARKS, _DRAWN = 24, 60, 400
_TOP = 24


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval (None: none)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line; points in the order of x."""

    name: str
    points: Sequence[Point]


def line_chart(
    name: str,
    title: str,
    curves: Sequence[Curve],
    *,
    x_title: str,
    y_title: str,
    baseline: float | None = None,
    note: str = "",
    height: int = 190,
    named: bool = False,
) -> Markup:
    """The curves side by side, with an interval bar at each point that has one. `baseline` is a value that gets a line.
    There is at least one point. `named`: a single curve is named in the legend too."""
    curves = [curve for curve in curves if curve.points]
    points = [point for curve in curves for point in curve.points]
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    values += [] if baseline is None else [baseline]
    ys = nice_ticks(min(values), max(values))
    places = sorted({point.x for point in points})
    xs = _x_ticks(places)
    plot = Plot.of(_bounds(places), ys, top=_TOP, height=height)
    shown = xs if len(xs) > 1 or xs[0] == round(xs[0]) else []
    parts = plot.axes(shown, ys, x_title, y_title)
    if baseline is not None:
        parts.append(line(plot.x.start, plot.y(baseline), plot.x.end, plot.y(baseline), "axis"))
    marked = len(points) <= _MARKS and all(len(curve.points) <= _MARKED for curve in curves)
    for number, curve in enumerate(curves):
        # side by side, so that intervals at the same round do not hide each other
        shift = (number - (len(curves) - 1) / 2) * min(4.0, 40 / len(curves)) if marked else 0
        parts += _curve(plot, curve, shift, number, marked)
    end = _TOP + height + 38.0
    if named or len(curves) > 1:
        entries, end = legend(
            [(f"line{n}" if marked else "line", _style(n, marked), curve.name) for n, curve in enumerate(curves)], end
        )
        parts += entries
    return drawing(name, title, " ".join([*(_words(curve, x_title) for curve in curves), note]).strip(), end + 2, parts)


def _curve(plot: Plot, curve: Curve, shift: float, number: int, marked: bool) -> list[Markup]:
    points, style = _thinned(curve.points), _style(number, marked)
    places = [(plot.x(point.x) + shift, point) for point in points]
    path = " ".join(f"{x:.1f},{plot.y(point.y):.1f}" for x, point in places)
    parts = [Markup('<polyline points="{}"{}/>').format(path, classes(f"line draw {style}"))]
    if not marked:
        return parts
    plain = style.split()[0]
    for x, point in places:
        if point.low is not None and point.high is not None:
            parts.append(line(x, plot.y(point.low), x, plot.y(point.high), f"whisker draw {plain}"))
        tip = f"{curve.name}, {point.x:g}: {_with_interval(point)}"
        parts.append(marker(x, plot.y(point.y), number, tip))
    return parts


def _style(number: int, marked: bool) -> str:
    """Without marks, dashes tell curves apart to those who do not see the colours."""
    return colour(number) if marked or not number else f"s{number % NUM_COLOURS} d{number % NUM_DASHES}"


def _x_ticks(xs: Sequence[float]) -> list[float]:
    """A tick at each value where they are few (rounds), else round numbers between the first and the last."""
    if len(xs) <= 9:
        return list(xs)
    whole = all(x == round(x) for x in xs)
    inside = [
        tick for tick in nice_ticks(xs[0], xs[-1]) if xs[0] <= tick <= xs[-1] and (not whole or tick == round(tick))
    ]
    return sorted({xs[0], *(tick for tick in inside if tick - xs[0] > (xs[-1] - xs[0]) / 12)})


def _bounds(xs: Sequence[float]) -> list[float]:
    """From the first to the last, with room on both sides where there are few points."""
    room = (xs[-1] - xs[0]) * (0.06 if len(xs) <= 9 else 0.0) or 0.5
    return [xs[0] - room, xs[-1] + room]


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most `_DRAWN` points: every n-th, and the last."""
    every = -(-len(points) // _DRAWN)
    return points if every <= 1 else [*points[:-1][::every], points[-1]]


def _with_interval(point: Point) -> str:
    interval = "" if point.low is None or point.high is None else f" [{tick_text(point.low)}, {tick_text(point.high)}]"
    return tick_text(point.y) + interval


def _words(curve: Curve, x_title: str) -> str:
    if len(curve.points) > _MARKED:
        first, last = curve.points[0], curve.points[-1]
        return f"{curve.name}: from {tick_text(first.y)} at {x_title} {first.x:g} to {tick_text(last.y)} at {last.x:g}."
    return f"{curve.name}: " + ", ".join(f"{x_title} {p.x:g} {_with_interval(p)}" for p in curve.points) + "."
