"""The smallest outcome of each stage, for tests to which its numbers do not matter."""

from __future__ import annotations

from typing import Any

from selfplay.core.outcomes import Outcome, from_json
from selfplay.core.stages import stage_named

DOCUMENTS: dict[str, dict[str, Any]] = {
    "prompts": {
        "num_prompts": 0, "num_admitted": 0, "drop_reasons": {}, "num_bad_rows": 0, "bad_rows": [], "prompt_tokens": 0,
    },
    "sample": {
        "num_prompts": 0, "num_responses": 0, "num_tokens": 0, "num_truncated": 0, "num_duplicates": 0, "drop_reasons": {},
        "quarantined": {}, "policy_digest": "a" * 64, "weight_changes": [], "engines": [], "num_tokens_sampled": 0,
        "sampling_seconds": 0.0, "num_mixed": 0, "stop_token_ids": [],
    },
    "score": {
        "num_responses": 0, "num_scored": 0, "reward_mean": None, "reward_std": None, "num_gold": 0,
        "gold_reward_mean": None, "drop_reasons": {}, "gold_drop_reasons": {}, "gold_lacks": [],
    },
    "pair": {
        "num_pairs": 0, "num_prompts_paired": 0, "unused_reasons": {}, "length_penalty": 0.0, "length_fit": None,
        "length_gap_mean": None, "gates_forced": [],
    },
    "logprobs": {
        "num_responses": 0, "quarantined": {}, "policy_digest": "a" * 64, "reference_digest": None,
        "reference_is_policy": False, "made_for_metric": {}, "source": "model", "source_reason": "", "num_from_engine": 0,
    },
    "train": {"skipped": True, "policy_round": 0, "policy_digest": "a" * 64, "optimizer_steps": 0},
    "evaluate": {"weight_changes": [], "policy_digest": "a" * 64, "eval_quarantined": {}},
}  # fmt: skip


def outcome_of(stage: str, **changes: Any) -> Outcome:
    """An outcome of the stage with these fields changed."""
    return from_json(stage_named(stage).outcome, {**DOCUMENTS[stage], **changes})
