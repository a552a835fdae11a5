"""The names by which preference datasets call what `select` needs, and ours for the same (see columns.py)."""

from __future__ import annotations

SIDES = ("chosen", "rejected")

# Numbers that come once for each response of a pair: the first template is our own name, the others are recognised.
# A template counts only where both of its columns are there, so that both numbers of a pair are of one kind.
SIDED: dict[str, tuple[str, ...]] = {
    "reward": (
        "reward_{}",
        "score_{}",
        "{}_score",
        "{}_reward",
        "rating_{}",
        "{}_rating",
        "{}_avg_rating",
        "rm_score_{}",
        "{}_rm_score",
        "rm_reward_{}",
        "{}_rm_reward",
        "reward_score_{}",
        "{}_reward_score",
    ),
    "policy_logp": (
        "policy_logp_{}",
        "policy_logps_{}",
        "policy_{}_logp",
        "policy_{}_logps",
        "{}_policy_logp",
        "{}_policy_logps",
        "logp_{}",
        "logps_{}",
        "{}_logp",
        "{}_logps",
    ),
    "reference_logp": (
        "reference_logp_{}",
        "reference_logps_{}",
        "reference_{}_logp",
        "reference_{}_logps",
        "{}_reference_logp",
        "{}_reference_logps",
        "ref_logp_{}",
        "ref_logps_{}",
        "ref_{}_logp",
        "ref_{}_logps",
        "{}_ref_logp",
        "{}_ref_logps",
    ),
    "num_tokens": (
        "num_tokens_{}",
        "{}_num_tokens",
        "num_{}_tokens",
        "n_tokens_{}",
        "{}_n_tokens",
        "token_count_{}",
        "{}_token_count",
    ),
}
SIDED_NUMBERS = tuple(f"{stem}_{side}" for stem in SIDED for side in SIDES)

# Numbers that come once for each pair; only their own names are recognised.
PAIR_NUMBERS = (
    "policy_logp_chosen_alone",
    "ask_llm_yes",
    "prompt_entropy",
    "prompt_reward_mean",
    "prompt_reward_std",
    "seed_implicit_margin",
    "validation_loss",
    "reward_fresh",
    "num_prompt_tokens",
)

# Of these, what comes once for each prompt, and so may stand beside its responses.
PROMPT_NUMBERS = ("prompt_entropy", "reward_fresh")

TEXTS: dict[str, tuple[str, ...]] = {
    "chosen": ("chosen", "chosen_response", "response_chosen", "chosen_answer"),
    "rejected": ("rejected", "reject", "rejected_response", "response_rejected", "rejected_answer"),
    "response": ("response", "completion", "generation", "generated_text", "output"),
    "responses": (
        "responses",
        "all_generated_responses",
        "generated_responses",
        "all_responses",
        "completions",
        "generations",
    ),
    "system": ("system", "system_prompt"),
}
PROMPTS = ("prompt", "instruction", "question", "query", "conversations", "conversation", "input")
REWARDS = {
    "reward": ("reward", "score", "rm_score", "rating", "reward_score", "rm_reward"),
    "rewards": (
        "rewards",
        "all_rm_scores",
        "all_rewards",
        "all_scores",
        "rm_scores",
        "scores",
        "reward_scores",
        "ratings",
        "rating",
    ),
}
RESPONSE_NUMBERS = ("policy_logp", "reference_logp", "num_tokens")

OF_PAIRS = ("chosen", "rejected", *SIDED_NUMBERS, *PAIR_NUMBERS, "explicit_margin", "embedding", "pair_id")
OF_LISTS = ("responses", "rewards", "policy_logps", "reference_logps", "nums_tokens")
OF_ROWS = ("response", "reward", *RESPONSE_NUMBERS, "response_id")
OF_ALL = ("prompt", "input", "system", "prompt_id", "group")
OUR_NAMES = (*OF_ALL, *OF_PAIRS, *OF_LISTS, *OF_ROWS)

# What an earlier `select`, or a run, has worked out: worked out again here, so it is left out.
DERIVED = frozenset(
    (
        "explicit_margin",
        "implicit_margin",
        "dpo_implicit_margin",
        "alignment_potential",
        "metric_value",
        "rank",
        "kept",
        "drop_reason",
    )
)
