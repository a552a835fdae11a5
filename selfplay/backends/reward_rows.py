"""The input of a reward model for a response: the token ids of the conversation, or a reason why it cannot be scored.

The model reads messages through its *own* tokenizer and chat template, never the policy's tokens or rendering. Nothing is
truncated, and no failure becomes a number. Every engine that computes rewards is given these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from selfplay.core.errors import ConfigError, DataError
from selfplay.core.protocols import ScoreItem
from selfplay.core.score_table import Outcome, finite, score_table
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.sizes import tokenizer_limit

TOO_LONG = "too_long_for_reward_model"


@dataclass(frozen=True, slots=True)
class Rows:
    """Conversations as token ids. `prompts` has what is the same for all responses to a prompt."""

    token_ids: list[list[int]] = field(default_factory=list)
    prompts: list[tuple[tuple[str, str], ...]] = field(default_factory=list)


class RewardRows:
    """Renders responses for one reward model. `sees`: "final" takes a response's final answer (`ScoreItem.final_answer`), "full"
    all of its text. `max_length`: tokens of a whole conversation, at most (and by default) what the tokenizer names and the
    model has `positions` for.

    Raises ConfigError for a setting out of range.
    """

    def __init__(self, tokenizer: Any, *, sees: str, max_length: int | None, positions: int | None) -> None:
        if sees not in ("final", "full"):
            raise ConfigError(f"reward.sees is {sees!r}", "Use final or full.")
        self._sees = sees
        self._renderer = ChatRenderer(tokenizer)
        self.max_length = _max_length(max_length, tokenizer_limit(tokenizer), positions)

    def score(self, items: Sequence[ScoreItem], rewards: Callable[[Rows], list[float]]) -> pa.Table:
        """Rewards in the order of `items`, as SCORES_SCHEMA: a reward or a drop_reason, never both and never neither. `rewards`
        gives a number for each row that it is given."""
        outcomes: list[Outcome | None] = []
        rows, places = Rows(), []
        for place, item in enumerate(items):
            token_ids, reason = self.render(item)
            outcomes.append((None, reason) if reason else None)
            if reason is None:
                places.append(place)
                rows.token_ids.append(token_ids)
                rows.prompts.append(tuple((turn["role"], turn["content"]) for turn in item.messages))
        for place, reward in zip(places, rewards(rows) if places else [], strict=True):
            outcomes[place] = finite(reward)
        return score_table(items, [outcome for outcome in outcomes if outcome is not None])

    def render(self, item: ScoreItem) -> tuple[list[int], str | None]:
        """Token ids of the conversation with the response, or none and the reason why it cannot be scored."""
        response = item.response
        if self._sees == "final":
            if item.no_answer is not None:
                return [], item.no_answer
            response = item.response if item.final_answer is None else item.final_answer
        try:
            ids = self._renderer.conversation([*item.messages, {"role": "assistant", "content": response}])
        except DataError as error:
            return [], f"not_rendered: {' '.join(error.message.split())[:200]}"
        return ([], TOO_LONG) if len(ids) > self.max_length else (ids, None)


def last_token(row: Sequence[int], pad: int | None) -> int:
    """The place of the last token that is not the padding token `pad`; 0 where there is none."""
    return next((place for place in range(len(row) - 1, 0, -1) if row[place] != pad), 0)


def _max_length(asked: int | None, *found: int | None) -> int:
    """The longest conversation in tokens: the smallest of the requested length and those of model and tokenizer."""
    limits = [limit for limit in found if limit is not None]
    if asked is None and not limits:
        raise ConfigError("the config of the reward model does not give its longest input", "Set reward.max_length.")
    if asked is not None and limits and asked > min(limits):
        raise ConfigError(
            f"reward.max_length is {asked}; the reward model takes at most {min(limits)} tokens",
            "Lower it or leave it out: longer conversations are dropped with a reason, never cut.",
        )
    return min(limits) if asked is None else asked
