"""What can be asked of pair building: the builders by name, the filters, the caps. No arrays here: the configuration reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Build = Literal["best_worst", "all", "random_pair", "best_random", "best_median", "sweet_spot", "minimum_gap"]
LengthPenalty = float | Literal["auto"]

# Fewer responses than this make a builder another one. Of n numbers the smallest is at most sqrt(n - 1) population standard
# deviations below the mean (Samuelson, 1968): of 5 never more than 2, so that the sweet spot would always be the worst.
FEWEST_RESPONSES: dict[Build, tuple[int, str]] = {
    "best_median": (3, "of two responses the lower one is the worst"),
    "sweet_spot": (6, "of five or fewer the one nearest mean - 2 std is always the worst"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRules:
    """How pairs are built from the responses of a prompt, and which are filtered out. The same fields as the config
    section `pairs`, which checks the values; see there and docs/data.md for what each means.

    `min_gap`, `min_reward_chosen`, `max_reward_rejected` are in the unit of the reward that the pair is built by (after
    the length penalty), `max_length_gap` in tokens, `length_penalty` in reward for each token of a response.
    """

    build: Build = "best_worst"
    max_per_prompt: int | None = None
    min_gap: float = 0.0
    max_similarity: float = 1.0
    max_length_gap: int | None = None
    min_reward_chosen: float | None = None
    max_reward_rejected: float | None = None
    length_penalty: LengthPenalty = 0.0
    allow_truncated: bool = False

    def check_num_responses(self, num_responses: int) -> None:
        """ValueError where a prompt's `num_responses` responses make a rule do nothing."""
        fewest, why = FEWEST_RESPONSES.get(self.build, (2, "a pair takes two"))
        if num_responses < fewest:
            raise ValueError(f"pairs.build: {self.build} takes {fewest} or more responses a prompt ({why})")
        most = num_responses * (num_responses - 1) // 2
        if self.max_per_prompt is not None and self.max_per_prompt >= most:
            raise ValueError(
                f"pairs.max_per_prompt: {self.max_per_prompt} does nothing: {num_responses} responses give {most} pairs at most"
            )

    def needs_lengths(self) -> bool:
        """Whether the lengths of the responses are read."""
        return self.max_length_gap is not None or self.length_penalty != 0.0


def pairs_per_prompt(rules: PairRules, num_responses: int) -> int:
    """The most pairs that a prompt with `num_responses` usable responses can give."""
    if rules.build != "all":
        return 1
    most = num_responses * (num_responses - 1) // 2
    return min(most, rules.max_per_prompt) if rules.max_per_prompt is not None else most
