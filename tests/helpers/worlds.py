"""A small world that is made in seconds and answers mostly nonsense: for tests of the machinery around it."""

from __future__ import annotations

from selfplay.quickstart.recipe import Sizes

TINY = Sizes(
    vocabulary=600, hidden=64, layers=1, heads=2, feed_forward=64, fine_tuning_steps=150, fine_tuning_batch=16,
    curve_points=1, curve_prompts=8, reward_pairs=200, reward_held_out_pairs=16, reward_batch=8,
    max_response_tokens=24, prompts=64, eval_prompts=16,
)  # fmt: skip
