"""Numbers, durations, sizes and Markdown tables as text, for every output: `TERMINAL` for the command line, `PAGE` for HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.core.escape import escape_terminal

# the mean of z-scores is 0, but rounding errors leave numbers of this size
_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True)
class Formatter:
    """How one kind of output writes numbers: the text for a missing value, the minus sign and the separator of groups of three
    digits."""

    missing: str
    minus: str
    separator: str

    def number(self, value: Any, digits: int = 3) -> str:
        """A number, flag or word. Floats that are very small or very large are written with an exponent."""
        if value is None:
            return self.missing
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return self.count(value)
        if not isinstance(value, float):
            return escape_terminal(str(value))
        if abs(value) < _ROUNDING:
            value = 0.0
        if value and (abs(value) < 10**-digits or abs(value) >= 1e6):
            return self._minus(f"{value:.{digits - 1}e}")
        return self._minus(f"{value:.{digits}f}")

    def count(self, value: int | None) -> str:
        """A whole number."""
        return self.missing if value is None else self._minus(f"{value:,}".replace(",", self.separator))

    def signed(self, value: float | None, digits: int = 3) -> str:
        """A difference, with its sign also where it is positive."""
        if value is None:
            return self.missing
        return self._minus(f"{value:+d}" if isinstance(value, int) else f"{value:+.{digits}f}")

    def percent(self, value: float | None, digits: int = 0) -> str:
        """A fraction as a percentage."""
        return self.missing if value is None else self._minus(f"{value:.{digits}%}")

    def duration(self, seconds: float | None) -> str:
        """Seconds in two units: `4.2 s`, `3 min 10 s`, `2 h 05 min`."""
        if seconds is None:
            return self.missing
        if seconds < 60:
            return f"{seconds:.1f} s"
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

    def _minus(self, text: str) -> str:
        return text.replace("-", self.minus)


TERMINAL = Formatter(missing="-", minus="-", separator="")
PAGE = Formatter(missing="\u2013", minus="\u2212", separator="\u202f")

number, signed, percent, duration = TERMINAL.number, TERMINAL.signed, TERMINAL.percent, TERMINAL.duration


def age(seconds: float) -> str:
    """A time span in the largest unit that fits twice: `12 s`, `4 min`, `3 h`, `2 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def human_bytes(size: float) -> str:
    """A number of bytes: `13.4 MB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("B", "KB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """A table, its last line ended. With `right`, all columns but the first are aligned right. Cells must be escaped already."""
    rule = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows)) + "\n"
