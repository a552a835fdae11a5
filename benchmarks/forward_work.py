"""Models and work for the benchmarks of forward passes (`scoring`, `logprobs`): random Llamas, prompts and responses of random
words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, alternate, median_of, ratios

CONTEXT, VOCABULARY = 1024, 2048
# about 9 million parameters
MEDIUM = {"hidden_size": 320, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8}
# about that of the quickstart
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SIGMA = 0.6
# one token each, with the space before it
WORDS = [first + second + third for first in "bdfgklmnprst" for second in "aeiou" for third in "nr"]


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts as texts, and the responses to them (prompt, text)."""

    prompts: list[str]
    responses: list[tuple[int, str]]


def make_work(num_prompts: int, num_responses: int, prompt_words: float, response_words: float, seed: int = 0) -> Work:
    """Lengths are log-normal with these means; the responses are in the order of their prompts."""
    generator = np.random.default_rng(seed)

    def text(mean: float) -> str:
        length = int(np.clip(generator.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA), 2, 5 * mean))
        return " ".join(generator.choice(WORDS, length))

    prompts = [text(prompt_words) for _ in range(num_prompts)]
    return Work(prompts, [(row, text(response_words)) for row in range(num_prompts) for _ in range(num_responses)])


def make_model(folder: Path, sizes: dict[str, int], *, is_reward: bool) -> Path:
    """A random Llama with a tokenizer of words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from selfplay.quickstart.models.tokenizer import make_tokenizer

    tokenizer = make_tokenizer([f"{word} {word}" for word in WORDS] * 50, VOCABULARY, CONTEXT)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, num_labels=1, dtype="float32", **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = (LlamaForSequenceClassification if is_reward else LlamaForCausalLM)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def padded(rows: Sequence[Sequence[int]]) -> Any:
    """input_ids and attention_mask of a batch, as a plain loop makes them."""
    import torch

    width = max(map(len, rows))
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def seconds(function: Callable[[], Any]) -> float:
    """Processor time of a call: one thread computes, so that other processes on the machine do not count."""
    start = time.process_time()
    function()
    return time.process_time() - start


def turns(runs: Mapping[str, Callable[[], Any]], num_runs: int) -> dict[str, list[float]]:
    """Processor time of each of `runs`, `num_runs` times each, in turns."""
    return alternate({name: partial(seconds, run) for name, run in runs.items()}, num_runs)


def processor_ratio(
    name: str, over: Sequence[float], under: Sequence[float], work: str, *, bar: float | None = None
) -> Figure:
    """The figure "how many times as fast" of two alternatives that ran in turns."""
    return median_of(name, ratios(over, under), "x", work, clock="processor", at_least=True, bar=bar)


def best(loops: dict[int, Callable[[], Any]]) -> int:
    """The batch size whose loop is the fastest."""
    tries = {size: seconds(loop) for size, loop in loops.items()}
    return min(tries, key=tries.__getitem__)
