"""The usable responses, sorted into one block a prompt: what builders work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Floats, Ints, run_starts, take_strings
from selfplay.selection.hashing import random_bits
from selfplay.selection.responses import ResponsePool

# Ids of responses that are Python texts at a time.
_NAMED = 65_536


@dataclass(frozen=True, slots=True)
class Blocks:
    """N responses of B prompts, sorted by prompt and then by response index, so that "first" means "lowest response index".

    `row_N` are their rows in the pool, `reward_N` is what pairs are built by. A pair is two positions in 0..N of one block.
    """

    row_N: Ints
    block_N: Ints
    start_B: Ints
    size_B: Ints
    index_N: Ints
    text_N: Ints
    reward_N: Floats
    num_tokens_N: Ints | None

    def first(self, hit_N: Bools) -> Ints:
        """Position of the first hit of each block. Every block has one."""
        hits = np.flatnonzero(hit_N)
        return hits[run_starts(self.block_N[hits])]

    def of_blocks(self, keep_B: Bools) -> Blocks:
        """Only these blocks."""
        keep_N = keep_B[self.block_N]
        return _blocks(
            self.row_N[keep_N],
            self.block_N[keep_N],
            self.index_N[keep_N],
            self.text_N[keep_N],
            self.reward_N[keep_N],
            None if self.num_tokens_N is None else self.num_tokens_N[keep_N],
        )

    def highest_B(self) -> Floats:
        """The highest reward of each block."""
        return self._reduced(np.maximum)

    def lowest_B(self) -> Floats:
        """The lowest reward of each block."""
        return self._reduced(np.minimum)

    def mean_and_std_B(self) -> tuple[Floats, Floats]:
        """Mean and population standard deviation of the rewards of each block."""
        # relative to the highest, so that a large common offset costs no digits
        highest_B = self.highest_B()
        offset_N = self.reward_N - highest_B[self.block_N]
        mean_B = self._sum_B(offset_N) / self.size_B
        variance_B = self._sum_B((offset_N - mean_B[self.block_N]) ** 2) / self.size_B
        return highest_B + mean_B, np.sqrt(variance_B)

    def _sum_B(self, values_N: Floats) -> Floats:
        return np.add.reduceat(values_N, self.start_B) if len(self.start_B) else np.empty(0)

    def _reduced(self, function: np.ufunc) -> Floats:
        return function.reduceat(self.reward_N, self.start_B) if len(self.start_B) else np.empty(0)


def blocks_of(pool: ResponsePool, usable_R: Bools) -> Blocks:
    """The usable responses of the pool in blocks; blocks come in order of `prompt_R`."""
    usable = np.flatnonzero(usable_R)
    row_N = usable[np.lexsort((pool.response_index_R[usable], pool.prompt_R[usable]))]
    return _blocks(
        row_N,
        pool.prompt_R[row_N],
        pool.response_index_R[row_N],
        pool.text_R[row_N],
        pool.rewards_R[row_N],
        None if pool.num_tokens_R is None else pool.num_tokens_R[row_N],
    )


def _blocks(
    row_N: Ints, prompt_N: Ints, index_N: Ints, text_N: Ints, reward_N: Floats, tokens_N: Ints | None
) -> Blocks:
    start_B = run_starts(prompt_N)
    size_B = np.diff(start_B, append=len(row_N))
    block_N = np.repeat(np.arange(len(start_B)), size_B)
    return Blocks(row_N, block_N, start_B, size_B, index_N, text_N, reward_N, tokens_N)


def chance_of(pool: ResponsePool, blocks: Blocks, seed: int) -> NDArray[np.uint64]:
    """63 random bits for each response of `blocks`, from seed, prompt id and response index alone."""

    def ids() -> Iterator[str]:
        for start in range(0, len(blocks.row_N), _NAMED):
            rows = blocks.row_N[start : start + _NAMED]
            prompts = take_strings(pool.prompt_ids, pool.prompt_R[rows]).to_pylist()
            for prompt, index in zip(prompts, pool.response_index_R[rows].tolist(), strict=True):
                yield f"{index} {prompt}"

    return random_bits(ids(), seed) >> np.uint64(1)
