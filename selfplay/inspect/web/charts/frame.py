"""What all charts are made of: the drawing with its names for screen readers, elements, scales with round numbers, legends."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup, escape

from selfplay.core.escape import one_line
from selfplay.inspect.web.pages import css_file

WIDTH = 400
"""Of every drawing, in its own units: text of 12 stays readable where the page is as narrow as a phone."""
SIZE = 12
_LETTER = 0.55 * SIZE
NUM_COLOURS, NUM_DASHES = 8, 4
# circle, square, triangle, diamond, about the point where they stand
_SHAPES = (
    "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z", "m-3.2 -3.2h6.4v6.4h-6.4z", "m0 -4.4l4.4 7.4h-8.8z",
    "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
)  # fmt: skip
_HEAD, _MARGIN = 56, 12  # of a drawing that stands alone
_LARGEST = sys.float_info.max


def drawing(name: str, title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    """The whole drawing. `title` is its accessible name, `description` says what it shows in words."""
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {} {}" role="img" '
        'aria-labelledby="{}-t {}-d">\n<title id="{}-t">{}</title>\n<desc id="{}-d">{}</desc>\n{}\n</svg>'
    ).format(
        WIDTH,
        _short(height),
        name,
        name,
        name,
        one_line(title),
        name,
        one_line(description),
        Markup("\n").join(parts),
    )


def standalone(chart: Markup, title: str, note: str = "") -> str:
    """A chart as an SVG file of its own, under its title: its colours, light and dark, are written into it."""
    head, _, rest = str(chart).partition(">")
    found = re.search(r'viewBox="0 0 (\d+) ([\d.]+)"', head)
    assert found is not None, "a drawing begins at 0, 0"
    width, height = int(found[1]) + 2 * _MARGIN, float(found[2]) + _HEAD + _MARGIN
    box = f"{-_MARGIN} {-_HEAD} {width} {_short(height)}"
    css = css_file("tokens.css") + css_file("charts.css")
    words = [text(0, 24 - _HEAD, title, "strong"), text(0, 40 - _HEAD, note, "tick")]
    paper = f'<rect class="paper" x="{-_MARGIN}" y="{-_HEAD}" width="100%" height="100%"/>'
    head = head.replace(found[0], f'viewBox="{box}"')
    return "\n".join([f"{head}>", f"<style>\n{css}</style>", paper, *words, rest.lstrip("\n"), ""])


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# A report has thousands of the following elements. `Markup.format` takes ten times as long as an f-string, so numbers are written
# as they are and texts escaped by hand.


def text(x: float, y: float, words: str, style: str = "") -> Markup:
    """A text at its baseline; `style` are class names: end, mid, tick, strong, ..."""
    return Markup(f'<text x="{_short(x)}" y="{_short(y)}"{classes(style)}>{escape(one_line(words))}</text>')


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return Markup(f'<line x1="{_short(x1)}" y1="{_short(y1)}" x2="{_short(x2)}" y2="{_short(y2)}"{classes(style)}/>')


def rect(x: float, y: float, width: float, height: float, style: str, tip: str = "", opacity: float = 1) -> Markup:
    """A rectangle; `tip` shows when it is pointed at."""
    place = f'x="{_short(x)}" y="{_short(y)}" width="{_short(max(width, 0))}" height="{_short(max(height, 0))}"'
    inside = f"<title>{escape(one_line(tip))}</title>" if tip else ""
    faint = f' opacity="{opacity:.2f}"' if opacity < 1 else ""
    return Markup(f"<rect {place}{classes(style)}{faint}>{inside}</rect>")


@cache
def classes(style: str) -> Markup:
    """A class attribute, where there is a class."""
    return Markup(f' class="{escape(style)}"') if style else Markup("")


def colour(index: int) -> str:
    """Class names of the index-th series: a colour, and dashes where the colours have come round."""
    dash = index // NUM_COLOURS % NUM_DASHES
    return f"s{index % NUM_COLOURS}" + (f" d{dash}" if dash else "")


def marker(x: float, y: float, index: int, tip: str) -> Markup:
    """The mark of the index-th series: its colour, and a shape, so that it is not told by colour alone."""
    shape = _SHAPES[index % len(_SHAPES)]
    return Markup('<path d="M{} {}{}"{}><title>{}</title></path>').format(
        _short(x), _short(y), shape, classes(f"fill mark s{index % NUM_COLOURS}"), one_line(tip)
    )


def width_of(words: str) -> float:
    """About how wide a text is."""
    return _LETTER * len(words)


def shorten(words: str, room: float) -> str:
    """The beginning of a text that fits into `room`, with an ellipsis where it was cut."""
    most = max(int(room / _LETTER), 1)
    return words if len(words) <= most else words[: most - 1] + "\u2026"


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that enclose both, about `count` of them."""
    if are_near(low, high):
        pad = max(0.5, abs(low) * 1e-3)
        low, high = max(low - pad, -_LARGEST), min(high + pad, _LARGEST)
    rough = high / (count - 1) - low / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, max(12, 2 - math.floor(math.log10(step)))) for index in range(first, last + 1)]
    # beyond the largest float there is no tick: the outermost one is at the number itself
    return [min(max(tick, -_LARGEST), _LARGEST) for tick in ticks]


def are_near(low: float, high: float) -> bool:
    """Whether two numbers are too close for an axis of their own: equal, or apart by no more than rounding."""
    return not high - low > max(1e-12 * max(abs(low), abs(high)), 1e-290)


def tick_text(value: float) -> str:
    """A number beside an axis."""
    if abs(value) >= 10_000 and value == round(value):
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.4g}".replace("-", "\u2212")


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from [low, high] to [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        # in halves, which changes no bit: the difference of two large numbers is no float
        span = self.high / 2 - self.low / 2
        return self.start + (self.end - self.start) * ((value / 2 - self.low / 2) / span if span else 0.5)


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle with two axes: ticks on both, titles, grid lines across."""

    x: Scale
    y: Scale

    @classmethod
    def of(cls, xs: Sequence[float], ys: Sequence[float], *, top: float, height: float) -> Plot:
        """The rectangle for ticks `xs` and `ys` (their ends are the bounds), `height` high and as wide as there is room."""
        left = max(30.0, max(width_of(tick_text(tick)) for tick in ys) + 10)
        return cls(Scale(xs[0], xs[-1], left, WIDTH - 12), Scale(ys[0], ys[-1], top + height, top))

    def axes(self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str) -> list[Markup]:
        """Ticks, grid and titles."""
        parts = [text(0, self.y.end - 10, y_title, "unit")]
        for tick in ys:
            parts.append(line(self.x.start, self.y(tick), self.x.end, self.y(tick), "grid-line"))
            parts.append(text(self.x.start - 6, self.y(tick) + 4, tick_text(tick), "tick end"))
        parts.append(line(self.x.start, self.y.start, self.x.end, self.y.start, "axis"))
        for tick in xs:
            parts.append(line(self.x(tick), self.y.start, self.x(tick), self.y.start + 4, "axis"))
            parts.append(text(self.x(tick), self.y.start + 16, tick_text(tick), "tick mid"))
        parts.append(text((self.x.start + self.x.end) / 2, self.y.start + 32, x_title, "unit mid"))
        return parts


def legend(entries: Sequence[tuple[str, str, str]], top: float) -> tuple[list[Markup], float]:
    """Entries (kind, class, words) in as many rows as they take, from `top`; and where they end. Kinds: line, line and the
    number of its marker, box, dot."""
    parts: list[Markup] = []
    x, y = 0.0, top + 10
    for kind, style, words in entries:
        words = shorten(words, WIDTH - 30)
        width = 22 + width_of(words) + 14
        if x and x + width > WIDTH:
            x, y = 0.0, y + 16
        if kind.startswith("line"):
            parts.append(line(x, y - 4, x + 16, y - 4, f"line draw {style}"))
            if kind != "line":
                parts.append(marker(x + 8, y - 4, int(kind[4:]), words))
        elif kind == "box":
            parts.append(rect(x + 3, y - 9, 10, 10, style))
        else:
            parts.append(
                Markup('<circle cx="{}" cy="{}" r="4"{}/>').format(_short(x + 8), _short(y - 4), classes(style))
            )
        parts.append(text(x + 20, y, words))
        x += width
    return parts, (y + 6 if entries else top)
