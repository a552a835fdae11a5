"""Metrics: what a pair is worth, one small pure function of named columns each.

A metric's parameter names are the columns it reads (`seed` aside, which is the selection's seed): a float64 array
over P pairs each, `pair_id` a sequence of strings. It returns the `metric_value` by which pairs are ranked: larger
= more worth keeping, whatever the sign of the quantity in the literature; NaN = cannot be ranked. A person's own
metric is such a function too; no base class.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfplay.errors import ConfigError
from selfplay.selection.arrays import Floats


def random(pair_id: Sequence[str], seed: int) -> Floats:
    """Uniform in [0, 1) from a hash of seed and pair id, so that neither row order nor the other pairs matter.

    Source: the control of the alignment-potential paper's released code.
    """
    start = hashlib.blake2b(str(seed).encode() + b"\0", digest_size=8)
    digests = bytearray()
    for name in pair_id:
        one = start.copy()
        one.update(name.encode())
        digests += one.digest()
    # 53 bits fill a float64's significand exactly.
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def full(pair_id: Sequence[str]) -> Floats:
    """The same value for every pair: all are kept (control)."""
    return np.zeros(len(pair_id))


def explicit_margin(explicit_margin: Floats) -> Floats:
    """R, signed: pairs with the higher reward on the rejected side rank last. Source: baseline of the released code."""
    return explicit_margin


def implicit_margin_small(implicit_margin: Floats) -> Floats:
    """-|L|: the policy is least sure of these pairs. Source: baseline of the released code (small is better)."""
    return -np.abs(implicit_margin)


def implicit_margin_large(implicit_margin: Floats) -> Floats:
    """|L|: the policy tells these responses apart most clearly. Source: the ranking step of APL."""
    return np.abs(implicit_margin)


def alignment_potential(alignment_potential: Floats) -> Floats:
    """The column itself, see `selection/margins.py`. Source: Huang et al., ICML 2025 (arXiv 2503.01864)."""
    return alignment_potential


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and what there is to say about it. `direction` is in terms of the formula's own quantity.

    Example: Metric("mine", my_function, "R / num_tokens_chosen", "large is kept", "my_file.py")
    """

    name: str
    function: Callable[..., Floats]
    formula: str
    direction: str
    source: str
    keeps_all: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(name for name in inspect.signature(self.function).parameters if name != "seed")

    def values(self, columns: Mapping[str, Any], seed: int) -> Floats:
        """`metric_value` of every pair.

        ConfigError if a column is missing or the function returns anything but P numbers.
        """
        missing = [name for name in self.inputs if name not in columns]
        if missing:
            ways = " ".join(HOW_TO_GET.get(name, f"Add a column {name!r} to the pairs.") for name in missing)
            raise ConfigError(f"metric {self.name!r} needs {', '.join(missing)}, which these pairs do not have", ways)
        arguments = {name: columns[name] for name in self.inputs}
        if "seed" in inspect.signature(self.function).parameters:
            arguments["seed"] = seed
        values_P = np.asarray(self.function(**arguments), dtype=np.float64)
        expected = (len(columns["pair_id"]),)
        if values_P.shape != expected:
            raise ConfigError(
                f"metric {self.name!r} returned an array of shape {values_P.shape}, expected {expected}",
                "A metric returns one number for each pair, larger for pairs more worth keeping.",
            )
        return values_P


_PAPER = "Huang et al., ICML 2025 (arXiv 2503.01864)"
_BASELINE = f"baseline in the released code of {_PAPER}"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("random", random, "hash(seed, pair_id)", "none: a control", _BASELINE),
        Metric("full", full, "0", "none: every pair is kept", "control", keeps_all=True),
        Metric("explicit_margin", explicit_margin, "R = reward_chosen - reward_rejected", "large R is kept", _BASELINE),
        Metric("implicit_margin_small", implicit_margin_small, "|L|", "small |L| is kept", _BASELINE),
        Metric("implicit_margin_large", implicit_margin_large, "|L|", "large |L| is kept", "ranking step of APL"),
        Metric(
            "alignment_potential",
            alignment_potential,
            "z(R) - weight * z(|L|); with standardize: false |R| - weight * |L|",
            "large potential is kept",
            f"{_PAPER} and its released code",
        ),
    )
}

_IMPLICIT = (
    "Give the policy whose log-probs are to be taken, or the columns policy_logp_chosen and policy_logp_rejected "
    "(the DPO form needs reference_logp_chosen and reference_logp_rejected too)."
)
HOW_TO_GET: dict[str, str] = {
    "explicit_margin": "Give a reward, or the columns reward_chosen and reward_rejected.",
    "implicit_margin": _IMPLICIT,
    "alignment_potential": f"{_IMPLICIT} It needs rewards too.",
}
"""How a user comes by an input that is missing."""


def find_metric(name: str) -> Metric:
    """The metric of that name; ConfigError with the nearest name otherwise."""
    if name in METRICS:
        return METRICS[name]
    nearest = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)[0]
    raise ConfigError(f"no metric {name!r}", f"Did you mean {nearest!r}? There are: {', '.join(METRICS)}.")
