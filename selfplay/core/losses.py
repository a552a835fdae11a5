"""The preference losses and what the loop needs to know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """`reference_free`: the loss reads no log-probs of a reference model."""

    reference_free: bool


LOSSES: Mapping[str, Loss] = {"dpo": Loss(reference_free=False), "simpo": Loss(reference_free=True)}
"""By the value of `training.loss`."""
