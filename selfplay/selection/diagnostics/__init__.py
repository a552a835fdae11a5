"""What a selection did to its pool, and what a user should look at first: pure functions on a PairPool and a Selection.

Reading order: distributions, agreement, groups, parts (numbers), advice (warnings about them), diagnosing (all of it).
"""

from selfplay.selection.diagnostics.diagnosing import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.diagnostics.parts import Advice, Diagnostics

__all__ = ["Advice", "Diagnostics", "Grouping", "diagnose"]
