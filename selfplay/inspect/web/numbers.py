"""Numbers as pages show them: short, with a true minus sign; a dash for what is not there."""

from __future__ import annotations

NONE = "\u2013"
_ROUNDING = 1e-13


def number(value: float | None, digits: int = 3) -> str:
    """A number with a few digits; whole numbers in groups of three."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return count(value)
    if abs(value) < _ROUNDING:  # what is left of rounding, as in means of z-scores
        value = 0.0
    text = (
        f"{value:.{digits - 1}e}"
        if value and (abs(value) < 10**-digits or abs(value) >= 1e6)
        else f"{value:.{digits}f}"
    )
    return text.replace("-", "\u2212")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: with its sign, also where it is positive."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def count(value: int | None) -> str:
    """A whole number in groups of three digits."""
    return NONE if value is None else f"{value:,}".replace(",", "\u202f").replace("-", "\u2212")


def percent(value: float | None, digits: int = 0) -> str:
    """A fraction as a percentage."""
    return NONE if value is None else f"{value:.{digits}%}".replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 10 s`, `2 h 05 min`."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
