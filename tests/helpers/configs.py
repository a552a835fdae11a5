"""The small configuration of the tests: 20 prompts with 4 responses each a round, on the tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def config_of(world: Path, **sections: Any) -> dict[str, Any]:
    """Its document; keyword arguments replace or add sections, and a dict is merged into the section that is there. A run
    writes no report by itself unless `report` says so: that would be a quarter of its time."""
    document: dict[str, Any] = {
        "policy": {"model": str(world / "policy")},
        "prompts": {"source": str(world / "prompts.jsonl"), "per_round": 20},
        "sampling": {"num_responses": 4, "temperature": 0.8, "max_tokens": 8, "shard_size": 12},
        "reward": {"model": str(world / "reward_model")},
        "selection": {"weight": 1.0, "keep": 0.5},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2},
        "evaluation": {"source": str(world / "eval_prompts.jsonl"), "num_prompts": 10, "num_responses": 2},
        "report": {"every": 0},
        "rounds": 2,
        "seed": 0,
    }
    for name, section in sections.items():
        if isinstance(section, dict) and isinstance(document.get(name), dict):
            document[name] = {**document[name], **section}
        else:
            document[name] = section
    return document


def write_config_of(world: Path, folder: Path, **sections: Any) -> Path:
    """The same as `folder`/config.yaml."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(world, **sections)))
    return path
