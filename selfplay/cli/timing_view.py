"""The bars of `show --timing`: where the time of each stage went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfplay.core.terminal import table
from selfplay.core.timing import PARTS

_WIDTH = 40
# the letter that a part is drawn with
_LETTERS = {"waiting": ".", "loading": "l", "computing": "#", "writing": "w", "committing": "c"}


def timing_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A bar for the driver and for the workers of each role, stage by stage; all have one scale."""
    longest = max((sum(row["seconds"].values()) for row in rows), default=0.0)
    if not longest:
        return "time: no stage has recorded any"
    shown = []
    for row in rows:
        seconds = row["seconds"]
        who = row["who"] if row["num_workers"] == 1 else f"{row['who']} x {row['num_workers']}"
        parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in PARTS if seconds[part] >= 0.005)
        shown.append([row["stage"], who, f"{sum(seconds.values()):.2f}", _bar(seconds, _WIDTH / longest), parts])
    legend = "   ".join(f"{letter} {part}" for part, letter in _LETTERS.items())
    return f"time of each stage, in seconds   ({legend})\n" + table(
        ["stage", "who", "s", "", ""], shown, left=(0, 1, 3, 4)
    )


def _bar(seconds: dict[str, float], letters_per_second: float) -> str:
    drawn, reached = "", 0.0
    for part in PARTS:
        reached += seconds[part] * letters_per_second
        drawn += _LETTERS[part] * (round(reached) - len(drawn))
    return drawn
