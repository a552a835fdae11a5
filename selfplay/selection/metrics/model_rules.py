"""Metrics of one more quantity that a model gives: a loss, a probability, a second log-prob."""

from __future__ import annotations

import numpy as np

from selfplay.selection.arrays import Floats


def selective_dpo(validation_loss: Floats) -> Floats:
    """-loss of the pair under a model trained on other folds: easy pairs first, which is also the order to train in.
    Source: Selective DPO, Gao et al., ICML 2025 (arXiv 2502.09650), which keeps the easiest half.
    """
    return -validation_loss


def ifd(policy_logp_chosen: Floats, policy_logp_chosen_alone: Floats) -> Floats:
    """Instruction-following difficulty: loss of the chosen response given its prompt over its loss without it (the
    token counts cancel). Above 1 the prompt does not help: the pair is left out. Source: Li et al., NAACL 2024
    (arXiv 2308.12032).
    """
    ratio_P = policy_logp_chosen / policy_logp_chosen_alone
    return np.where(ratio_P > 1.0, -np.inf, ratio_P)


def ask_llm(ask_llm_yes: Floats) -> Floats:
    """The policy's probability of "yes" when asked whether the example is worth training on. Source: Ask-LLM,
    Sachdeva et al., 2024 (arXiv 2402.09668).
    """
    return ask_llm_yes
