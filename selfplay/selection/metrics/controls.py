"""Controls: what a metric has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfplay.selection.arrays import Floats
from selfplay.selection.ids import Ids


def random(pair_id: Sequence[str], seed: int) -> Floats:
    """Uniform in (0, 1) from a hash of seed and pair id, so that neither row order nor the other pairs matter.

    Source: the control of the alignment-potential paper's released code.
    """
    return Ids.of(pair_id).uniform(seed)


def full(pair_id: Sequence[str]) -> Floats:
    """The same value for every pair: all are kept (control)."""
    return np.zeros(len(pair_id))
