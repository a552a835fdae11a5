"""The metrics there are, and finding one by name."""

from __future__ import annotations

import difflib

from selfplay.core.errors import ConfigError
from selfplay.selection.metrics.controls import full, random
from selfplay.selection.metrics.density import density
from selfplay.selection.metrics.inputs import made_of
from selfplay.selection.metrics.margin_rules import (
    alignment_potential,
    apl,
    bees,
    dpo_gap,
    explicit_margin,
    implicit_margin_large,
    implicit_margin_small,
)
from selfplay.selection.metrics.metric import Metric
from selfplay.selection.metrics.model_rules import ask_llm, ifd, selective_dpo
from selfplay.selection.metrics.reward_rules import fdpo, high_mean_low_variance, minimum_gap, rs_dpo

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
        Metric(
            "bees",
            bees,
            "p q / (p q + (1 - p)(1 - q)), p = R and q = seed_implicit_margin clipped to [0, 1]; 0/0 is 0.5",
            "large joint probability is kept",
            "BeeS, Deng et al., 2025 (arXiv 2502.14560)",
        ),
        Metric(
            "dpo_gap",
            dpo_gap,
            "(log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)",
            "small signed gap is kept",
            "small DPO implicit reward gap, Qi et al., 2025 (arXiv 2508.04149)",
        ),
        Metric(
            "apl",
            apl,
            "|L| where prompt_entropy >= its entropy_quantile in the pool, the other pairs behind all of these",
            "large |L| of high-entropy prompts is kept",
            "APL, Muldrew et al., ICML 2024 (arXiv 2402.08114)",
        ),
        Metric(
            "fdpo",
            fdpo,
            "reward_chosen - reward_fresh; <= 0 is left out",
            "large gain over a fresh sample is kept",
            "filtered DPO, Morimura et al., EMNLP 2024 (arXiv 2404.13846)",
        ),
        Metric(
            "rs_dpo",
            rs_dpo,
            "sigmoid(R / tau); <= eta is left out",
            "large R is kept",
            "RS-DPO, Khaki et al., 2024 (arXiv 2402.10038)",
        ),
        Metric(
            "minimum_gap",
            minimum_gap,
            "R; <= threshold is left out",
            "small R is kept",
            "smallest reward gap above a threshold",
        ),
        Metric(
            "high_mean_low_variance",
            high_mean_low_variance,
            "z(prompt_reward_mean) - z(prompt_reward_std)",
            "large mean and small spread of the prompt's rewards are kept",
            "prompts of high mean and low variance of rewards",
        ),
        Metric(
            "selective_dpo",
            selective_dpo,
            "validation_loss",
            "small loss is kept, ranked easy to hard",
            "Selective DPO, Gao et al., ICML 2025 (arXiv 2502.09650)",
        ),
        Metric(
            "ifd",
            ifd,
            "loss(chosen given prompt) / loss(chosen alone); > 1 is left out",
            "large difficulty is kept",
            "IFD, Li et al., NAACL 2024 (arXiv 2308.12032)",
        ),
        Metric(
            "ask_llm",
            ask_llm,
            'probability of "yes" to: is this example worth training on?',
            "large probability is kept",
            "Ask-LLM, Sachdeva et al., 2024 (arXiv 2402.09668)",
        ),
        Metric(
            "density",
            density,
            "log(u) * kernel density of embedding, u = hash(seed, pair_id): a sample with probability inverse to density",
            "thin regions are likelier to be kept",
            "density sampling, Sachdeva et al., 2024 (arXiv 2402.09668)",
        ),
    )
}


def find_metric(name: str) -> Metric:
    """The metric of that name; ConfigError with the nearest name otherwise."""
    if name in METRICS:
        return METRICS[name]
    nearest = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"no metric {name!r}",
        f"Did you mean {nearest!r}? There are: {', '.join(METRICS)}. A metric of your own is file.py:function.",
    )


def columns_needed(metric: Metric, implicit_margin: str = "simpo") -> tuple[str, ...]:
    """The columns of the pairs table that `metric` needs in the end, `pair_id` aside: margins taken apart into the
    rewards, log-probs and token counts they are made of. `implicit_margin` is "simpo" or "dpo"."""
    parts = [part for name in metric.inputs if name != "pair_id" for part in made_of(name, implicit_margin)]
    return tuple(dict.fromkeys(parts))
