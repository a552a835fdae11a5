"""Metrics, which rank pairs. `metric.py` says what one is, `rules.py` and `density.py` define them."""

from selfplay.selection.metrics import rules

from selfplay.selection.metrics import density  # isort: skip  # the last in the table
from selfplay.selection.metrics.inputs import HOW_TO_GET, how_to_get, made_of
from selfplay.selection.metrics.metric import Metric
from selfplay.selection.metrics.table import METRICS, columns_needed, find_metric

__all__ = [
    "HOW_TO_GET",
    "METRICS",
    "Metric",
    "columns_needed",
    "density",
    "find_metric",
    "how_to_get",
    "made_of",
    "rules",
]
