"""Metrics of rewards alone. Those with a threshold leave pairs out (-inf) before the cut."""

from __future__ import annotations

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Floats
from selfplay.selection.margins import spread, z_scores


def fdpo(reward_chosen: Floats, reward_fresh: Floats) -> Floats:
    """reward_chosen - reward_fresh, the reward of a fresh sample of the policy; pairs whose chosen response is not
    better than that are left out. Source: filtered DPO, Morimura et al., EMNLP 2024 (arXiv 2404.13846).
    """
    gain_P = reward_chosen - reward_fresh
    return np.where(gain_P <= 0.0, -np.inf, gain_P)


def rs_dpo(explicit_margin: Floats, tau: float = 1.0, eta: float = 0.5) -> Floats:
    """sigmoid(R / tau); pairs not above eta are left out. Source: RS-DPO, Khaki et al., 2024 (arXiv 2402.10038), which
    then takes every pair that is left (`keep: 1.0`).
    """
    if tau <= 0.0:
        raise ConfigError(f"option 'tau' of metric 'rs_dpo' is {tau:g}", "Give a temperature above 0.")
    if not 0.0 <= eta < 1.0:
        raise ConfigError(f"option 'eta' of metric 'rs_dpo' is {eta:g}", "Give a threshold from 0 to below 1.")
    value_P = 1.0 / (1.0 + np.exp(-explicit_margin / tau))
    return np.where(value_P <= eta, -np.inf, value_P)


def minimum_gap(explicit_margin: Floats, threshold: float = 0.0) -> Floats:
    """-R: the smallest reward gaps above the threshold; pairs not above it are left out."""
    return np.where(explicit_margin <= threshold, -np.inf, -explicit_margin)


def high_mean_low_variance(prompt_reward_mean: Floats, prompt_reward_std: Floats) -> Floats:
    """z(mean) - z(std) of the rewards of the prompt's responses, z over the pairs of the pool.

    Rounded to 12 decimals: prompts that are equal but for the last bits of a mean are ties, whatever the reward's unit.
    """
    finite_P = np.isfinite(prompt_reward_mean) & np.isfinite(prompt_reward_std)
    mean_P = z_scores(prompt_reward_mean, spread(prompt_reward_mean[finite_P]))
    std_P = z_scores(prompt_reward_std, spread(prompt_reward_std[finite_P]))
    return np.round(mean_P - std_P, 12)
