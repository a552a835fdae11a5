"""The recipe of the small world: how its two models are made, and the settings of the run that starts from
them.

The one place for these numbers: `world.py` writes `config.yaml` from here and passes the sizes to the process
that trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the world is and how long its models are trained. Counts; a step is one optimizer step."""

    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 256
    context: int = 2048
    fine_tuning_steps: int = 2000
    fine_tuning_batch: int = 16
    fine_tuning_learning_rate: float = 3e-3
    curve_points: int = 8
    curve_prompts: int = 200
    reward_pairs: int = 5000
    reward_held_out_pairs: int = 500
    reward_batch: int = 32
    reward_learning_rate: float = 1e-3
    max_response_tokens: int = 64
    prompts: int = 4096
    eval_prompts: int = 512


def run_config(seed: int) -> dict[str, Any]:
    """The configuration of the quickstart's run, as `config.yaml` holds it. Paths are relative to the world's
    folder.
    """
    return {
        "policy": {"model": "policy"},
        "prompts": {"source": "prompts.jsonl", "column": "prompt", "per_round": 256},
        "sampling": {"num_responses": 5, "temperature": 0.8, "top_p": 0.95, "max_tokens": 64},
        "reward": {"model": "reward_model"},
        "pairs": {"build": "best_worst"},
        "selection": {"metric": "alignment_potential", "weight": 1.0, "keep": 0.5},
        "training": {
            "loss": "dpo",
            "start": "previous",
            "reference": "previous",
            "data": "latest",
            "beta": 0.1,
            "learning_rate": 3.0e-4,
            "epochs": 3,
            "batch_size": 16,
        },
        "evaluation": {
            "source": "eval_prompts.jsonl",
            "column": "prompt",
            "num_prompts": 256,
            "num_responses": 2,
            "greedy": True,
            "gold": "selfplay.quickstart.tasks:gold",
        },
        "storage": {"keep_policies": "all"},
        "rounds": 3,
        "seed": seed,
    }
