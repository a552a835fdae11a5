"""Benchmark `scoring`: responses that a reward model scores in a second, over plain loops of transformers on the same texts.

The plain loop renders and encodes each conversation, sorts by length, and pads batches of the size that is fastest here. vLLM's
pooling runner is given the same token ids as our model of transformers. Each alternative runs in turns, in one process with one
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.figures import Figure, Given, Measured
from benchmarks.forward_work import MEDIUM, Work, best, make_model, make_work, padded, processor_ratio, turns

BATCH_SIZES = (4, 8, 16)
# of 32 numbers each: vLLM's attention on a CPU has no code for 40
HEADS = {"num_attention_heads": 10}


def measure(given: Given) -> Measured:
    """Ratios of responses per second."""
    from selfplay.backends.vllm.engine_args import prepare_environment

    prepare_environment()  # vLLM is imported below
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from selfplay.backends.transformers.reward_model import RewardModel
    from selfplay.backends.vllm.pooling_engine import PoolingEngine
    from selfplay.core.protocols import ScoreItem

    torch.set_num_threads(1)
    with given.scratch() as folder:
        make_model(folder, MEDIUM | HEADS, is_reward=True)
        ours = RewardModel(str(folder), threads=1)
        plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        engine = PoolingEngine(
            str(folder),
            dtype="float32",
            max_length=ours.rows.max_length,
            batch_tokens=ours.batch_tokens,
            pad_token_id=ours.pad_token_id,
            weight_bytes=ours.weight_bytes,
        )

    def by_vllm(asked: list[ScoreItem]) -> list[float]:
        # a run would find the prompts and responses of the run before
        engine._stream.call(engine._engine().reset_prefix_cache)
        found: list[float] = ours.rows.score(asked, lambda rows: engine.rewards(rows.token_ids))["reward"].to_pylist()
        return found

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
        plainly = loop(work, size)
        error = max(
            abs(one - other)
            for found in (ours.score(asked)["reward"].to_pylist(), by_vllm(asked))
            for one, other in zip(found, plainly, strict=True)
        )
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours.score(asked),
            "batched": lambda: loop(work, size),
            "one by one": lambda: loop(work, 1, is_sorted=False),
            "vllm": lambda: by_vllm(asked),
        }
        return turns(runs, given.num_runs), error

    different, error = compared(make_work(given.scaled(48), 1, 16, 60))
    shared, shared_error = compared(make_work(given.scaled(6), 8, 60, 60))
    what = "responses of 60 words, reward model of 9 M parameters, one thread"
    of_different = f"{given.scaled(48)} {what}, a prompt of 16 words each"
    of_shared = f"{given.scaled(6)} prompts of 60 words with 8 {what}"
    return Measured(
        [
            processor_ratio(
                "scoring_over_batched_loop", different["batched"], different["ours"], of_different, bar=1.0
            ),
            processor_ratio(
                "scoring_over_one_at_a_time", different["one by one"], different["ours"], of_different, bar=1.2
            ),
            processor_ratio(
                "scoring_shared_prompts_over_batched_loop", shared["batched"], shared["ours"], of_shared, bar=1.3
            ),
            processor_ratio("scoring_vllm_over_transformers", different["ours"], different["vllm"], of_different),
            processor_ratio("scoring_vllm_over_transformers_shared_prompts", shared["ours"], shared["vllm"], of_shared),
            Figure("scoring_largest_error", max(error, shared_error), "reward", "against the batched loop", bar=1e-5),
        ],
        {"seconds_different_prompts": different, "seconds_shared_prompts": shared},
    )
