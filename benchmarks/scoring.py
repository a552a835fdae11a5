"""Benchmark `scoring`: responses that a reward model scores in a second, over plain loops of transformers on the same texts.

The plain loop renders and encodes each conversation, sorts by length, and pads batches of the size that is fastest here. Each
alternative runs in turns, in one process with one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.figures import Figure, Given, Measured, alternate, median_of, ratios
from benchmarks.forward_work import MEDIUM, Work, best, make_model, make_work, padded, seconds

BATCH_SIZES = (4, 8, 16)


def measure(given: Given) -> Measured:
    """Ratios of responses per second."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from selfplay.backends.transformers.reward_model import RewardModel
    from selfplay.core.protocols import ScoreItem

    torch.set_num_threads(1)
    with given.scratch() as folder:
        make_model(folder, MEDIUM, is_reward=True)
        ours = RewardModel(str(folder), threads=1)
        plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)

    def items(work: Work) -> list[ScoreItem]:
        return [
            ScoreItem(str(row), [{"role": "user", "content": work.prompts[prompt]}], text)
            for row, (prompt, text) in enumerate(work.responses)
        ]

    def loop(work: Work, size: int, *, is_sorted: bool = True) -> list[float]:
        rows = []
        for prompt, text in work.responses:
            turns = [{"role": "user", "content": work.prompts[prompt]}, {"role": "assistant", "content": text}]
            rows.append(
                tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False).input_ids
            )
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row])) if is_sorted else [*range(len(rows))]
        rewards = [0.0] * len(rows)
        with torch.inference_mode():
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                logits = plain(**padded([rows[row] for row in batch])).logits[:, 0].tolist()
                for row, reward in zip(batch, logits, strict=True):
                    rewards[row] = reward
        return rewards

    def compared(work: Work) -> tuple[dict[str, list[float]], float]:
        size = best({size: partial(loop, work, size) for size in BATCH_SIZES})
        asked = items(work)
        found = ours.score(asked)["reward"].to_pylist()
        error = max(abs(one - other) for one, other in zip(found, loop(work, size), strict=True))
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours.score(asked),
            "batched": lambda: loop(work, size),
            "one by one": lambda: loop(work, 1, is_sorted=False),
        }
        return alternate({name: partial(seconds, run) for name, run in runs.items()}, given.num_runs), error

    different, error = compared(make_work(given.scaled(48), 1, 16, 60))
    shared, shared_error = compared(make_work(given.scaled(6), 8, 60, 60))
    num_different, num_shared = given.scaled(48), given.scaled(6)
    what = "responses of 60 words, reward model of 9 M parameters, one thread"
    more: dict[str, Any] = {"unit": "x", "clock": "processor", "at_least": True}
    return Measured(
        [
            median_of("scoring_over_batched_loop", ratios(different["batched"], different["ours"]),
                      work=f"{num_different} {what}, a prompt of 16 words each", bar=1.0, **more),
            median_of("scoring_over_one_at_a_time", ratios(different["one by one"], different["ours"]),
                      work=f"{num_different} {what}, a prompt of 16 words each", bar=1.2, **more),
            median_of("scoring_shared_prompts_over_batched_loop", ratios(shared["batched"], shared["ours"]),
                      work=f"{num_shared} prompts of 60 words with 8 {what}", bar=1.3, **more),
            Figure("scoring_largest_error", max(error, shared_error), "reward", "against the batched loop", bar=1e-5),
        ],
        {"seconds_different_prompts": different, "seconds_shared_prompts": shared},
    )  # fmt: skip
