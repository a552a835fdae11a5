"""Controls: what a metric has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfplay.selection.arrays import Floats
from selfplay.selection.hashing import uniform


def random(pair_id: Sequence[str], seed: int) -> Floats:
    """Uniform in (0, 1) from a hash of seed and pair id, so that neither row order nor the other pairs matter.

    Source: the control of the alignment-potential paper's released code.
    """
    return uniform(pair_id, seed)


def full(pair_id: Sequence[str]) -> Floats:
    """The same value for every pair: all are kept (control)."""
    return np.zeros(len(pair_id))
