"""The usable responses, sorted into one group a prompt: what builders work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selfplay.core.magnitudes import units_of_groups
from selfplay.selection.arrays import Bools, Floats, Ints, run_starts, take_strings
from selfplay.selection.hashing import random_bits
from selfplay.selection.responses import ResponsePool

# Ids of responses that are Python texts at a time.
_NAMED = 65_536


@dataclass(frozen=True, slots=True)
class PromptGroups:
    """N responses of G prompts, sorted by prompt and then by response index, so that "first" means "lowest response index".

    `row_N` are their rows in the pool, `reward_N` is what pairs are built by. A pair is two positions in 0..N of one group.
    """

    row_N: Ints
    group_N: Ints
    start_G: Ints
    size_G: Ints
    index_N: Ints
    text_N: Ints
    reward_N: Floats
    num_tokens_N: Ints | None

    def first(self, hit_N: Bools) -> Ints:
        """Position of the first hit of each group. Every group has one."""
        hits = np.flatnonzero(hit_N)
        return hits[run_starts(self.group_N[hits])]

    def highest_G(self) -> Floats:
        """The highest reward of each group."""
        return self._reduced(np.maximum, self.reward_N)

    def lowest_G(self) -> Floats:
        """The lowest reward of each group."""
        return self._reduced(np.minimum, self.reward_N)

    def in_units(self) -> tuple[PromptGroups, Floats]:
        """The groups with their rewards in units in which those of a group can be added, subtracted and squared, and the unit of
        each group: 1 for ordinary numbers."""
        unit_G = units_of_groups(self.reward_N, self.start_G)
        if (unit_G == 1).all():
            return self, unit_G
        return replace(self, reward_N=self.reward_N / unit_G[self.group_N]), unit_G

    def mean_and_std_G(self) -> tuple[Floats, Floats]:
        """Mean and population standard deviation of the rewards of each group."""
        # relative to the highest, so that a large common offset costs no digits
        scaled, unit_G = self.in_units()
        highest_G = scaled.highest_G()
        offset_N = scaled.reward_N - highest_G[self.group_N]
        mean_G = self._reduced(np.add, offset_N) / self.size_G
        variance_G = self._reduced(np.add, (offset_N - mean_G[self.group_N]) ** 2) / self.size_G
        return unit_G * (highest_G + mean_G), unit_G * np.sqrt(variance_G)

    def _reduced(self, function: np.ufunc, values_N: Floats) -> Floats:
        return function.reduceat(values_N, self.start_G) if len(self.start_G) else np.empty(0)


def group_by_prompt(pool: ResponsePool, usable_R: Bools) -> PromptGroups:
    """The usable responses of the pool in groups; groups come in order of `prompt_R`."""
    usable = np.flatnonzero(usable_R)
    row_N = usable[np.lexsort((pool.response_index_R[usable], pool.prompt_R[usable]))]
    start_G = run_starts(pool.prompt_R[row_N])
    size_G = np.diff(start_G, append=len(row_N))
    return PromptGroups(
        row_N=row_N,
        group_N=np.repeat(np.arange(len(start_G)), size_G),
        start_G=start_G,
        size_G=size_G,
        index_N=pool.response_index_R[row_N],
        text_N=pool.text_R[row_N],
        reward_N=pool.rewards_R[row_N],
        num_tokens_N=None if pool.num_tokens_R is None else pool.num_tokens_R[row_N],
    )


def random_bits_of(pool: ResponsePool, groups: PromptGroups, seed: int) -> NDArray[np.uint64]:
    """63 random bits for each response of `groups`, from seed, prompt id and response index alone."""

    def ids() -> Iterator[str]:
        for start in range(0, len(groups.row_N), _NAMED):
            rows = groups.row_N[start : start + _NAMED]
            prompts = take_strings(pool.prompt_ids, pool.prompt_R[rows]).to_pylist()
            for prompt, index in zip(prompts, pool.response_index_R[rows].tolist(), strict=True):
                yield f"{index} {prompt}"

    return random_bits(ids(), seed) >> np.uint64(1)
