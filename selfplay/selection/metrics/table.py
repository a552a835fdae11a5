"""The table of metrics: `rule` puts a function there, `find_metric` finds it by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Floats
from selfplay.selection.metrics.inputs import made_of
from selfplay.selection.metrics.metric import Metric

METRICS: dict[str, Metric] = {}
"""Every metric of this package by name, in the order of their definition. Filled when `selection.metrics` is imported."""

_Function = TypeVar("_Function", bound=Callable[..., Floats])


def rule(formula: str, direction: str, source: str, *, keeps_all: bool = False) -> Callable[[_Function], _Function]:
    """Decorator: the function is the metric of its name."""

    def register(function: _Function) -> _Function:
        METRICS[function.__name__] = Metric(function.__name__, function, formula, direction, source, keeps_all)
        return function

    return register


def find_metric(name: str) -> Metric:
    """The metric of that name; ConfigError with the nearest name otherwise."""
    if name in METRICS:
        return METRICS[name]
    nearest = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"no metric {name!r}",
        f"Did you mean {nearest!r}? There are: {', '.join(METRICS)}. A metric of your own is file.py:function.",
    )


def columns_needed(metric: Metric, implicit_margin: str = "simpo") -> tuple[str, ...]:
    """The columns of the pairs table that `metric` needs in the end, `pair_id` aside: margins taken apart into the
    rewards, log-probs and token counts they are made of. `implicit_margin` is "simpo" or "dpo"."""
    parts = [part for name in metric.inputs if name != "pair_id" for part in made_of(name, implicit_margin)]
    return tuple(dict.fromkeys(parts))
