"""A line chart as SVG, without a plotting library: curves with intervals, axes, a legend. Text is escaped; no script, no link."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 240, 50, 50
# Okabe & Ito's colours, told apart by the colour-blind too; then the same with dashes
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval (null: none)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line."""

    name: str
    points: Sequence[Point]


def line_chart(
    title: str, x_title: str, curves: Sequence[Curve], *, baseline: float | None = None, note: str = ""
) -> str:
    """The drawing; `baseline` is a value that gets a horizontal line. There is at least one point."""
    points = [point for curve in curves for point in curve.points]
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    values += [] if baseline is None else [baseline]
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    first, last = min(point.x for point in points), max(point.x for point in points)

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((x - first) / (last - first) if last > first else 0.5)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, size=15),
        _text(LEFT, 40, note, colour="#666666"),
    ]
    for tick in ticks:
        parts.append(_line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "#dddddd"))
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{tick:.4g}", anchor="end"))
    for x in sorted({point.x for point in points}):
        parts.append(_text(across(x), HEIGHT - BOTTOM + 18, f"{x:g}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, x_title, anchor="middle"))
    if baseline is not None:
        parts.append(_line(LEFT, up(baseline), WIDTH - RIGHT, up(baseline), "#333333"))
    for number, curve in enumerate(curves):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        # side by side, so that intervals at the same round do not hide each other
        shift = (number - (len(curves) - 1) / 2) * min(5.0, 60 / len(curves))
        places = [(across(point.x) + shift, point) for point in sorted(curve.points, key=lambda point: point.x)]
        path = " ".join(f"{x:.1f},{up(point.y):.1f}" for x, point in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{_dashed(dash)}/>')
        for x, point in places:
            if point.low is not None and point.high is not None:
                parts.append(_line(x, up(point.low), x, up(point.high), colour))
            parts.append(f'<circle cx="{x:.1f}" cy="{up(point.y):.1f}" r="3" fill="{colour}"/>')
        beside = TOP + 16 * number
        parts.append(_line(WIDTH - RIGHT + 16, beside, WIDTH - RIGHT + 44, beside, colour, 2, dash))
        parts.append(_text(WIDTH - RIGHT + 50, beside + 4, curve.name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that enclose both, about `count` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222222") -> str:
    shown = "".join(character if character.isprintable() else " " for character in text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(shown)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}"{_dashed(dash)}/>'


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""
