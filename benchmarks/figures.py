"""What a benchmark reports: figures with a bar and, where they were timed, the median and the spread of alternating runs."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.child import device

Clock = Literal["wall", "processor", "virtual", "none"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `bar` is a lower bound where `at_least`, else an upper bound; None: there is no bar. `values` are the
    runs that `value` is the median of. `clock` says what was read: "virtual" time and "none" (a size, a count) do not depend on
    the load of the machine. `work` is what was done, with its sizes."""

    name: str
    value: float
    unit: str
    work: str
    bar: float | None = None
    at_least: bool = False
    clock: Clock = "none"
    values: tuple[float, ...] = ()
    device: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def document(self) -> dict[str, Any]:
        """The JSON object."""
        runs = {"spread": [min(self.values), max(self.values)], "num_runs": len(self.values)} if self.values else {}
        return {**asdict(self), **runs, "holds": self.holds, "device": self.device or device()}

    def line(self) -> str:
        """The figure for people."""
        text = f"{self.name:<44} {_shown(self.value)} {self.unit}"
        if self.values:
            text += f"  [{_shown(min(self.values))}, {_shown(max(self.values))}] of {len(self.values)}"
        if self.bar is not None:
            verdict = "holds" if self.holds else "does not hold"
            text += f"  bar {'>=' if self.at_least else '<='} {_shown(self.bar)}: {verdict}"
        return text


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def median_of(name: str, values: Sequence[float], unit: str, work: str, **more: Any) -> Figure:
    """The figure of several runs."""
    return Figure(name, statistics.median(values), unit, work, values=tuple(values), **{"clock": "wall", **more})


def alternate(runs: Mapping[str, Callable[[], float]], num_runs: int) -> dict[str, list[float]]:
    """What each of `runs` returns (seconds, or work in a second), `num_runs` times each, in turns, so that a change of the
    machine's load meets all of them; the order is reversed every second time."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_runs):
        for name in reversed(found) if number % 2 else found:
            found[name].append(runs[name]())
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """The ratio of two alternating series, run by run."""
    return [one / other for one, other in zip(over, under, strict=True)]


@dataclass(frozen=True, slots=True)
class Given:
    """How the benchmarks are run: `num_runs` of each alternative, and sizes times `scale` (1 is that of the bars)."""

    num_runs: int = 5
    scale: float = 1.0
    folder: Path | None = None

    def scaled(self, size: int) -> int:
        """A size of the work."""
        return max(1, round(size * self.scale))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder that is removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="selfplay-benchmark-", dir=self.folder) as name:
            yield Path(name)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one benchmark found; `details` go into the document only."""

    figures: list[Figure]
    details: Mapping[str, Any]
