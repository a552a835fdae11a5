"""Metrics of the explicit and the implicit reward margin (R and L in the formulas)."""

from __future__ import annotations

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Floats


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


def bees(explicit_margin: Floats, seed_implicit_margin: Floats) -> Floats:
    """Both margins as probabilities that the label is right (clipped to [0, 1]), joined as independent evidence:
    p q / (p q + (1 - p)(1 - q)). Where one is 0 and the other 1 they contradict each other: 0.5.

    Source: BeeS, Deng et al., 2025 (arXiv 2502.14560); `seed_implicit_margin` is of a small DPO model trained on a
    part of the data.
    """
    p_P, q_P = np.clip(explicit_margin, 0.0, 1.0), np.clip(seed_implicit_margin, 0.0, 1.0)
    both_P, neither_P = p_P * q_P, (1.0 - p_P) * (1.0 - q_P)
    total_P = both_P + neither_P
    return np.where(total_P == 0.0, 0.5, both_P / total_P)


def dpo_gap(dpo_implicit_margin: Floats) -> Floats:
    """Minus the signed difference of log-ratios to the reference (without beta): pairs that DPO has learnt least, or
    learnt the wrong way round, come first. Source: selection by small DPO implicit reward gap, Qi et al., 2025
    (arXiv 2508.04149).
    """
    return -dpo_implicit_margin


def apl(implicit_margin: Floats, prompt_entropy: Floats, entropy_quantile: float = 0.5) -> Floats:
    """|L| among pairs whose prompt entropy reaches the pool's quantile; the others rank behind all of these.

    APL first takes the prompts of high entropy and then ranks by |L|. Here no pair is left out, so that `keep` is
    respected whatever the quantile: the pairs of lower entropy get -1 / (1 + |L|), below every |L| and in the order
    of |L| among themselves. Source: Muldrew et al., ICML 2024 (arXiv 2402.08114).
    """
    if not 0.0 <= entropy_quantile <= 1.0:
        raise ConfigError(f"option 'entropy_quantile' of metric 'apl' is {entropy_quantile:g}", "Give it from 0 to 1.")
    finite_P = np.isfinite(prompt_entropy) & np.isfinite(implicit_margin)
    if not finite_P.any():
        return np.full(len(prompt_entropy), np.nan)
    size_P = np.abs(implicit_margin)
    high_P = prompt_entropy >= np.quantile(prompt_entropy[finite_P], entropy_quantile)
    return np.where(high_P, size_P, -1.0 / (1.0 + size_P))
