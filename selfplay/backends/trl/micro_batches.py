"""Cuts the pairs of an optimizer step into micro-batches of a bounded number of tokens (stage *train*)."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from selfplay.backends.transformers.batching import token_batches

# Tokens in a forward and backward pass where `training.micro_batch_tokens` is not set, padding included.
MICRO_BATCH_TOKENS = {"cuda": 16384, "cpu": 1024}

# On a CPU another forward and backward pass costs about as much as this padding: 32 tokens, and more for a small model, whose
# tokens cost less. With 0.5 million parameters the stage took .84 times the processor time with 256 tokens in place of 32.
_PASS_TOKENS, _PASS_PARAMETER_TOKENS = 32, 100_000_000

MicroBatch = dict[str, torch.Tensor]


def most_padding(device: str, num_parameters: int) -> int | None:
    """Tokens of padding beyond which another micro-batch is cheaper; None: a part of the budget."""
    return _PASS_TOKENS + _PASS_PARAMETER_TOKENS // num_parameters if device == "cpu" else None


class MicroBatches:
    """A collator: the rows of one optimizer step in, its micro-batches out, each as TRL's DPO collator makes it. Pairs of like
    length are put together. A micro-batch has at most `max_pairs` pairs and `max_tokens` tokens, or one pair that is longer, and
    at most `padding` tokens of padding (None: a part of `max_tokens`).
    `shares_prompts`: the model computes a prompt once for both responses (pair_rows.py)."""

    def __init__(self, max_tokens: int, max_pairs: int, padding: int | None = None) -> None:
        self._max_tokens, self._max_pairs, self._padding = max_tokens, max_pairs, padding
        self.shares_prompts = False
        # padding is masked, so that any id will do
        self._collate = DataCollatorForPreference(pad_token_id=0)

    def __call__(self, rows: list[dict[str, Any]]) -> list[MicroBatch]:
        return [self.collate(rows, places) for places in self.cut(rows)]

    def cut(self, rows: list[dict[str, Any]]) -> list[list[int]]:
        """Which rows make up each micro-batch, by their places in the list."""
        lengths = [self._length(row) for row in rows]
        return token_batches(
            lengths,
            self._max_tokens,
            rows_share=[1] * len(rows),
            batch_share=self._max_pairs,
            most_padding=self._padding,
        )

    def _length(self, row: dict[str, Any]) -> int:
        prompt, chosen, rejected = (len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected"))
        return prompt + chosen + rejected if self.shares_prompts else 2 * (prompt + max(chosen, rejected))

    def collate(self, rows: list[dict[str, Any]], places: list[int]) -> MicroBatch:
        """One micro-batch: chosen sequences, then rejected ones, padded on the right."""
        batch: MicroBatch = self._collate([rows[place] for place in places])
        return batch


def num_pairs(batch: MicroBatch) -> int:
    """Pairs in a micro-batch."""
    return len(batch["input_ids"]) // 2
