"""The metrics, one small function each. R is the explicit reward margin, L the implicit one.

A rule with a threshold leaves pairs out (-inf) before the cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Floats
from selfplay.selection.hashing import uniform
from selfplay.selection.margins import spread, z_scores
from selfplay.selection.metrics.table import rule

_PAPER = "Huang et al., ICML 2025 (arXiv 2503.01864)"
_BASELINE = f"baseline in the released code of {_PAPER}"


@rule("hash(seed, pair_id)", "none: a control", _BASELINE)
def random(pair_id: Sequence[str], seed: int) -> Floats:
    """Uniform in (0, 1) from a hash of seed and pair id: neither row order nor the other pairs matter."""
    return uniform(pair_id, seed)


@rule("0", "none: every pair is kept", "control", keeps_all=True)
def full(pair_id: Sequence[str]) -> Floats:
    """The same value for every pair."""
    return np.zeros(len(pair_id))


@rule("R = reward_chosen - reward_rejected", "large R is kept", _BASELINE)
def explicit_margin(explicit_margin: Floats) -> Floats:
    """R, signed: pairs with the higher reward on the rejected side rank last."""
    return explicit_margin


@rule("|L|", "small |L| is kept", _BASELINE)
def implicit_margin_small(implicit_margin: Floats) -> Floats:
    """-|L|: the policy is least sure of these pairs."""
    return -np.abs(implicit_margin)


@rule("|L|", "large |L| is kept", "ranking step of APL")
def implicit_margin_large(implicit_margin: Floats) -> Floats:
    """|L|: the policy tells these responses apart most clearly."""
    return np.abs(implicit_margin)


@rule(
    "z(R) - weight * z(|L|); with standardize: false |R| - weight * |L|",
    "large potential is kept",
    f"{_PAPER} and its released code",
)
def alignment_potential(alignment_potential: Floats) -> Floats:
    """The column itself, see `selection/margins.py`."""
    return alignment_potential


@rule(
    "p q / (p q + (1 - p)(1 - q)), p = R and q = seed_implicit_margin clipped to [0, 1]; 0/0 is 0.5",
    "large joint probability is kept",
    "BeeS, Deng et al., 2025 (arXiv 2502.14560)",
)
def bees(explicit_margin: Floats, seed_implicit_margin: Floats) -> Floats:
    """Both margins as probabilities that the label is right, joined as independent evidence. Where one is 0 and the other
    1 they contradict each other: 0.5. `seed_implicit_margin` is of a small DPO model trained on a part of the data.
    """
    p_P, q_P = np.clip(explicit_margin, 0.0, 1.0), np.clip(seed_implicit_margin, 0.0, 1.0)
    both_P, neither_P = p_P * q_P, (1.0 - p_P) * (1.0 - q_P)
    total_P = both_P + neither_P
    return np.where(total_P == 0.0, 0.5, both_P / total_P)


@rule(
    "(log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)",
    "small signed gap is kept",
    "small DPO implicit reward gap, Qi et al., 2025 (arXiv 2508.04149)",
)
def dpo_gap(dpo_implicit_margin: Floats) -> Floats:
    """Minus the difference of log-ratios (without beta): pairs that DPO has learnt least, or the wrong way round, first."""
    return -dpo_implicit_margin


@rule(
    "|L| where prompt_entropy >= its entropy_quantile in the pool, the other pairs behind all of these",
    "large |L| of high-entropy prompts is kept",
    "APL, Muldrew et al., ICML 2024 (arXiv 2402.08114)",
)
def apl(implicit_margin: Floats, prompt_entropy: Floats, entropy_quantile: float = 0.5) -> Floats:
    """APL first takes the prompts of high entropy and then ranks by |L|. Here no pair is left out, so that `keep` is
    respected whatever the quantile: the pairs of lower entropy get -1 / (1 + |L|), below every |L| and in the order
    of |L| among themselves.
    """
    if not 0.0 <= entropy_quantile <= 1.0:
        raise ConfigError(f"option 'entropy_quantile' of metric 'apl' is {entropy_quantile:g}", "Give it from 0 to 1.")
    finite_P = np.isfinite(prompt_entropy) & np.isfinite(implicit_margin)
    if not finite_P.any():
        return np.full(len(prompt_entropy), np.nan)
    size_P = np.abs(implicit_margin)
    high_P = prompt_entropy >= np.quantile(prompt_entropy[finite_P], entropy_quantile)
    return np.where(high_P, size_P, -1.0 / (1.0 + size_P))


@rule(
    "reward_chosen - reward_fresh; <= 0 is left out",
    "large gain over a fresh sample is kept",
    "filtered DPO, Morimura et al., EMNLP 2024 (arXiv 2404.13846)",
)
def fdpo(reward_chosen: Floats, reward_fresh: Floats) -> Floats:
    """Gain of the chosen response over a fresh sample of the policy, by reward."""
    gain_P = reward_chosen - reward_fresh
    return np.where(gain_P <= 0.0, -np.inf, gain_P)


@rule("sigmoid(R / tau); <= eta is left out", "large R is kept", "RS-DPO, Khaki et al., 2024 (arXiv 2402.10038)")
def rs_dpo(explicit_margin: Floats, tau: float = 1.0, eta: float = 0.5) -> Floats:
    """The paper takes every pair that is left (`keep: 1.0`)."""
    if tau <= 0.0:
        raise ConfigError(f"option 'tau' of metric 'rs_dpo' is {tau:g}", "Give a temperature above 0.")
    if not 0.0 <= eta < 1.0:
        raise ConfigError(f"option 'eta' of metric 'rs_dpo' is {eta:g}", "Give a threshold from 0 to below 1.")
    value_P = 1.0 / (1.0 + np.exp(-explicit_margin / tau))
    return np.where(value_P <= eta, -np.inf, value_P)


@rule("R; <= threshold is left out", "small R is kept", "smallest reward gap above a threshold")
def minimum_gap(explicit_margin: Floats, threshold: float = 0.0) -> Floats:
    """-R: the smallest reward gaps above the threshold."""
    return np.where(explicit_margin <= threshold, -np.inf, -explicit_margin)


@rule(
    "z(prompt_reward_mean) - z(prompt_reward_std)",
    "large mean and small spread of the prompt's rewards are kept",
    "prompts of high mean and low variance of rewards",
)
def high_mean_low_variance(prompt_reward_mean: Floats, prompt_reward_std: Floats) -> Floats:
    """z over the pairs of the pool, of the rewards of the prompt's responses.

    Rounded to 12 decimals: prompts that are equal but for the last bits of a mean are ties, whatever the reward's unit.
    """
    finite_P = np.isfinite(prompt_reward_mean) & np.isfinite(prompt_reward_std)
    mean_P = z_scores(prompt_reward_mean, spread(prompt_reward_mean[finite_P]))
    std_P = z_scores(prompt_reward_std, spread(prompt_reward_std[finite_P]))
    return np.round(mean_P - std_P, 12)


@rule(
    "validation_loss",
    "small loss is kept, ranked easy to hard",
    "Selective DPO, Gao et al., ICML 2025 (arXiv 2502.09650)",
)
def selective_dpo(validation_loss: Floats) -> Floats:
    """-loss of the pair under a model trained on other folds. The paper keeps the easiest half, and trains in this order."""
    return -validation_loss


@rule(
    "loss(chosen given prompt) / loss(chosen alone); > 1 is left out",
    "large difficulty is kept",
    "IFD, Li et al., NAACL 2024 (arXiv 2308.12032)",
)
def ifd(policy_logp_chosen: Floats, policy_logp_chosen_alone: Floats) -> Floats:
    """Instruction-following difficulty (the token counts cancel). Above 1 the prompt does not help."""
    ratio_P = policy_logp_chosen / policy_logp_chosen_alone
    return np.where(ratio_P > 1.0, -np.inf, ratio_P)


@rule(
    'probability of "yes" to: is this example worth training on?',
    "large probability is kept",
    "Ask-LLM, Sachdeva et al., 2024 (arXiv 2402.09668)",
)
def ask_llm(ask_llm_yes: Floats) -> Floats:
    """The probability that the policy gives to "yes"."""
    return ask_llm_yes
