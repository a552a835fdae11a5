"""What a metric is: one small pure function of named columns, and what there is to say about it.

The parameters of the function that have no default are the columns it reads (arrays over P pairs by the names of the
pairs table; `pair_id` a sequence of strings). Parameters with a default are its options: numbers a user may set. Two
names are special: `seed` is the selection's seed, `notes` a list to which the function may add sentences for the
summary. It returns the `metric_value` by which pairs are ranked: larger = more worth keeping, whatever the sign of
the quantity in the literature; NaN = cannot be ranked; -inf = the metric's own rule leaves the pair out.
A user's own metric is such a function too; no base class.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.core.raised_at import raised_at
from selfplay.core.redaction import text_of
from selfplay.selection.arrays import Floats
from selfplay.selection.metrics.inputs import how_to_get

SPECIAL = ("seed", "notes")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and what there is to say about it. `direction` is in terms of the formula's own quantity.

    `where` is the file of a user's own metric, whose errors name it; None for ours, which give NaN
    to every pair of which an input is not finite.

    Example: Metric("mine", my_function, "R / num_tokens_chosen", "large is kept", "my_file.py")
    """

    name: str
    function: Callable[..., Floats]
    formula: str
    direction: str
    source: str
    keeps_all: bool = False
    where: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(name for name, default in self._parameters().items() if default is inspect.Parameter.empty)

    @property
    def options(self) -> dict[str, float]:
        """The numbers a user may set, with their defaults."""
        found = self._parameters().items()
        return {name: default for name, default in found if default is not inspect.Parameter.empty}

    def _parameters(self) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters
        return {name: one.default for name, one in parameters.items() if name not in SPECIAL}

    def check_options(self, options: Mapping[str, float]) -> None:
        """ConfigError for an option that this metric does not have, or a value that is not a finite number."""
        known = self.options
        for name, value in options.items():
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                hint = f"Did you mean {nearest[0]!r}? It has: {_named(known)}." if nearest else "Leave the options out."
                raise ConfigError(f"metric {self.name!r} has no option {name!r}", hint)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(
                    f"option {name!r} of metric {self.name!r} is {value!r}", "Give a finite number, as 0.5."
                )

    def check_inputs(self, columns: Mapping[str, Any]) -> None:
        """ConfigError that names each column that is missing and how to get it."""
        missing = [name for name in self.inputs if name not in columns]
        if missing:
            ways = dict.fromkeys(how_to_get(name) for name in missing)
            raise ConfigError(
                f"metric {self.name!r} needs {', '.join(missing)}, which these pairs do not have", " ".join(ways)
            )

    def values(
        self,
        columns: Mapping[str, Any],
        seed: int,
        options: Mapping[str, float] | None = None,
        notes: list[str] | None = None,
    ) -> Floats:
        """`metric_value` of every pair; `columns` holds `pair_id` at least. Sentences of the metric are appended to `notes`.

        The function is given float64, however narrow a column is kept: the differences of narrow unsigned integers
        wrap around. A user's own function is given copies, which it may change.
        ConfigError if a column is missing, an option unknown, the function raises, or it returns anything but P numbers.
        """
        options = {} if options is None else options
        self.check_options(options)
        self.check_inputs(columns)
        own = self.where is not None
        arguments = {name: _given(columns[name], own=own) for name in self.inputs} | dict(options)
        special = {"seed": seed, "notes": [] if notes is None else notes}
        wanted = inspect.signature(self.function).parameters
        arguments |= {name: value for name, value in special.items() if name in wanted}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            result = self._call_users(arguments) if own else self.function(**arguments)
        value_P = self._checked(result, len(columns["pair_id"]))
        return value_P if own else _nan_where_input_is_not_finite(value_P, [columns[name] for name in self.inputs])

    def _call_users(self, arguments: dict[str, Any]) -> Any:
        try:
            return self.function(**arguments)
        except KeyboardInterrupt:  # the user's own: a metric runs in the process that they see
            raise
        except BaseException as error:  # a user's function may raise anything
            raise ConfigError(
                f"metric {self.name}: {self.name.rpartition(':')[2]} in {self.where} failed: {type(error).__name__}: "
                f"{text_of(error)}{raised_at(error)}",
                f"It was called with arrays over {len(next(iter(arguments.values()), []))} pairs: "
                f"{', '.join(arguments)}."
                if arguments
                else "It was called without arguments.",
            ) from error

    def _checked(self, result: Any, num_pairs: int) -> Floats:
        hint = "A metric returns one number for each pair, larger for pairs more worth keeping."
        try:
            if isinstance(result, np.ma.MaskedArray):  # np.asarray would show what is masked
                result = np.ma.filled(result.astype(np.float64), np.nan)
            found = np.asarray(result)
        except ValueError as error:  # lists of different lengths
            raise ConfigError(f"metric {self.name!r} returned something that is not an array: {error}", hint) from error
        if type(result).__name__ == "Series" and not np.array_equal(np.asarray(result.index), np.arange(len(result))):
            raise ConfigError(
                f"metric {self.name!r} returned a pandas Series in another order than the pairs",
                "Return the values in the order of the arrays that the metric is given, with sort_index().",
            )
        if found.dtype.kind not in "biuf":
            raise ConfigError(f"metric {self.name!r} returned {found.dtype} values, not numbers", hint)
        if found.shape != (num_pairs,):
            raise ConfigError(
                f"metric {self.name!r} returned an array of shape {found.shape}, expected {(num_pairs,)}", hint
            )
        return found.astype(np.float64, copy=False)


def _given(column: Any, *, own: bool) -> Any:
    """A column as a function is given it; ids, and the vectors of an embedding, in their own type."""
    if not isinstance(column, np.ndarray):
        return column
    if column.ndim == 1 and column.dtype.kind in "biuf":
        return column.astype(np.float64, copy=own)
    return column.copy() if own else column


def _nan_where_input_is_not_finite(value_P: Floats, inputs: Sequence[Any]) -> Floats:
    """NaN where an input of one of our rules is not finite: that is a fault of the data and not a verdict of the rule.
    A user's own metric decides that itself."""
    numbers = (one for one in inputs if isinstance(one, np.ndarray) and one.ndim == 1 and one.dtype.kind == "f")
    for column_P in numbers:
        value_P = np.where(np.isfinite(column_P), value_P, np.nan)
    return value_P


def _named(options: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({default:g})" for name, default in options.items())
