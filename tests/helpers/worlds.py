"""A small world that is made in seconds and answers mostly nonsense: for tests of the machinery around it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from selfplay.quickstart.recipe import Sizes
from selfplay.quickstart.world import World, prepare

TINY = Sizes(
    vocabulary=600, hidden=64, layers=1, heads=2, feed_forward=64, fine_tuning_steps=150, fine_tuning_batch=16,
    curve_points=1, curve_prompts=8, reward_pairs=200, reward_held_out_pairs=16, reward_batch=8,
    max_response_tokens=24, prompts=64, eval_prompts=16,
)  # fmt: skip

# its policy ends its responses
SMALL = Sizes(
    vocabulary=600, hidden=64, layers=1, heads=2, feed_forward=128, fine_tuning_steps=300, fine_tuning_batch=16,
    curve_points=1, curve_prompts=8, reward_pairs=400, reward_held_out_pairs=16, reward_batch=8,
    max_response_tokens=32, prompts=400, eval_prompts=32,
)  # fmt: skip


def small_world(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[dict[str, Any]]]:
    """A world of `SMALL`, made by the quickstart's own code, once for all processes of the suite by way of its cache; and
    what was reported while it was made."""
    of_all = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_all = of_all.parent
    cache = of_all / "cache"
    cache.mkdir(exist_ok=True)
    with open(cache / "reports.jsonl", "a+", encoding="utf-8", buffering=1) as reports:
        world = prepare(
            folder, 0, cache_dir=cache, progress=lambda report: print(json.dumps(report), file=reports), sizes=SMALL
        )
        reports.seek(0)
        return world, [json.loads(line) for line in reports]
