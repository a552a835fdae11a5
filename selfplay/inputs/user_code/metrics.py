"""A metric by its name or, `my_file.py:my_metric`, a person's own function of named columns.

The import is here and not in `selection/`, which reads no files. See `selection/metrics/metric.py` for what a metric is.
"""

from __future__ import annotations

import functools
import inspect
import math
from pathlib import Path
from typing import Any

from selfplay.config.named_files import is_own_metric
from selfplay.core.errors import ConfigError
from selfplay.inputs.user_code import loading as user_code
from selfplay.inputs.user_code.exits import exits_are_errors
from selfplay.selection.metrics import Metric, find_metric
from selfplay.selection.metrics.metric import SPECIAL

_WHAT = "metric"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load_metric(name: str, search_path: str | Path) -> Metric:
    """The metric of that name, or the user's function imported.

    The first line of the function's docstring is taken as its formula. Raises ConfigError for an unknown name, a
    function that cannot be imported, and a signature that is not one of named columns and numbers as options.
    """
    if not is_own_metric(name):
        return find_metric(name)
    function = user_code.load_function(name, search_path, what=_WHAT)
    path = user_code.source_file(name, search_path, what=_WHAT)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metric {name} has no signature to read column names from", "Write it with def.") from error
    for parameter in parameters.values():
        if parameter.kind not in _NAMED:
            raise ConfigError(
                f"metric {name}: parameter {parameter} of {path} names no column",
                "Name each column as a parameter, as def my_metric(reward_chosen, num_tokens_chosen).",
            )
        default = parameter.default
        if parameter.name in SPECIAL or default is parameter.empty:
            continue
        if isinstance(default, bool) or not isinstance(default, int | float) or not math.isfinite(default):
            raise ConfigError(
                f"metric {name}: option {parameter.name!r} of {path} has the default {default!r}",
                "A parameter with a default is an option, which is a finite number; one without is a column.",
            )

    @functools.wraps(function)
    def called(**arguments: Any) -> Any:
        with exits_are_errors():
            return function(**arguments)

    said = (inspect.getdoc(function) or "").strip().partition("\n")[0]
    return Metric(name, called, said or name, "large is kept", str(path), where=str(path))
