"""The columns that metrics read: what each is made of, and how a user comes by one that is missing."""

from __future__ import annotations

REWARDS = ("reward_chosen", "reward_rejected")
POLICY_LOGPS = ("policy_logp_chosen", "policy_logp_rejected")
REFERENCE_LOGPS = ("reference_logp_chosen", "reference_logp_rejected")
MEAN_LOGPS = ("policy_mean_logp_chosen", "policy_mean_logp_rejected")  # per token
NUM_TOKENS = ("num_tokens_chosen", "num_tokens_rejected")

_REWARDS = "Give a reward model or function, or the columns reward_chosen and reward_rejected."
_POLICY = "Give the policy that computes log-probs, or the columns policy_logp_chosen and policy_logp_rejected"
_REFERENCE = "Give a reference other than the policy, or the columns reference_logp_chosen and reference_logp_rejected"
_NUM_TOKENS = "Give the policy, whose tokenizer counts them, or the columns num_tokens_chosen and num_tokens_rejected."
_LOGPROBS = "Give the policy, from which it is computed, or a column of that name"

HOW_TO_GET: dict[str, str] = {
    "explicit_margin": _REWARDS,
    "reward_chosen": _REWARDS,
    "reward_rejected": _REWARDS,
    "implicit_margin": f"{_POLICY} (the DPO form needs reference_logp_chosen and reference_logp_rejected too).",
    "alignment_potential": f"{_POLICY} (the DPO form needs reference_logp_chosen and reference_logp_rejected too). "
    "It needs rewards too.",
    "dpo_implicit_margin": f"{_POLICY}, and a reference other than the policy, or the columns reference_logp_chosen "
    "and reference_logp_rejected.",
    "policy_logp_chosen": f"{_POLICY}.",
    "policy_logp_rejected": f"{_POLICY}.",
    "reference_logp_chosen": f"{_REFERENCE}.",
    "reference_logp_rejected": f"{_REFERENCE}.",
    "num_tokens_chosen": _NUM_TOKENS,
    "num_tokens_rejected": _NUM_TOKENS,
    "policy_logp_chosen_alone": f"{_LOGPROBS} (log-prob sum of the chosen response without its prompt).",
    "ask_llm_yes": f'{_LOGPROBS} (the policy\'s probability of "yes" when asked whether the example is worth training on).',
    "embedding": f"{_LOGPROBS} (mean-pooled hidden states over prompt and chosen response).",
    "prompt_entropy": "A run samples several responses a prompt and computes it; a dataset needs a column "
    "prompt_entropy (minus the mean of the summed log-probs of sampled responses, in nats).",
    "prompt_reward_mean": "Start from several scored responses a prompt, or give the columns prompt_reward_mean and "
    "prompt_reward_std.",
    "prompt_reward_std": "Start from several scored responses a prompt, or give the columns prompt_reward_mean and "
    "prompt_reward_std.",
    "seed_implicit_margin": "Train a small DPO model on part of the data and give its implicit margins as a column "
    "seed_implicit_margin.",
    "validation_loss": "Train on folds of the data, and give each pair's loss under the model that has not seen it "
    "as a column validation_loss.",
    "reward_fresh": "Sample a fresh response a prompt from the policy, score it with the same reward, and give it as "
    "a column reward_fresh.",
}
"""How a user comes by an input that is missing."""


def how_to_get(column: str) -> str:
    """What to do about a missing column; any column can be an input of a user's own metric."""
    return HOW_TO_GET.get(column, f"Add a column {column!r} to the pairs.")


def made_of(column: str, implicit_margin: str) -> tuple[str, ...]:
    """The columns of the pairs table from which `select` makes `column`; the column itself where it makes none.

    `implicit_margin` is "simpo" or "dpo".
    """
    implicit = POLICY_LOGPS + (NUM_TOKENS if implicit_margin == "simpo" else REFERENCE_LOGPS)
    return {
        "explicit_margin": REWARDS,
        "implicit_margin": implicit,
        "alignment_potential": REWARDS + implicit,
        "dpo_implicit_margin": POLICY_LOGPS + REFERENCE_LOGPS,
    }.get(column, (column,))
