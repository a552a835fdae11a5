"""Token ids of offline pairs under the policy: what its log-probs are taken of.

In a run the token ids come from the sampler and nothing is re-tokenised. Offline there is only text, so the ids are made as
a trainer (TRL) makes them: the prompt is rendered up to where the assistant's turn begins, the whole conversation is
rendered too, and the response is the difference. It is cut after the token that ends the turn, which belongs to the response
(a sampled response ends with it too) while a newline that some templates write after it does not. Where the template does
not write the whole conversation as a continuation of the prompt (it changes earlier turns, or takes thinking out of a
response), the response is its text encoded by itself with that end token behind it. A base model (`chat_template: none`)
always has its response that way, ended by the tokenizer's end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.core.errors import ConfigError, DataError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.selection.reasons import TOO_LONG_FOR_TRAINING

NOT_RENDERED = "not_rendered"


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Token ids of a pair; with a `reason` it cannot be used (and `detail` says more for people)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reason: str | None = None
    detail: str = ""


class PairRenderer:
    """`stop_token_ids` end a turn (the tokenizer's end token and those of the generation config). `limit`: tokens that the
    prompt and the longer response may have together; None = no limit. What exceeds it is dropped with a reason, never cut.

    `apart` counts the responses that were encoded by themselves though there is a template.
    """

    def __init__(self, renderer: ChatRenderer, stop_token_ids: Sequence[int], limit: int | None) -> None:
        self._renderer, self._ends, self._limit = renderer, frozenset(stop_token_ids), limit
        self._eos: int | None = renderer.tokenizer.eos_token_id
        if self._eos is None and not self._ends:
            raise ConfigError(
                "the policy's tokenizer has no end token",
                "A finished response ends with one: give a complete tokenizer.",
            )
        self.apart = 0

    def pair(self, prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]) -> RenderedPair:
        """Token ids of prompt, chosen and rejected, or the reason why there are none."""
        try:
            ids = self._renderer.prompt(prompt)
            sides = [self._response(prompt, ids, side) for side in (chosen, rejected)]
        except DataError as error:
            return RenderedPair([], [], [], NOT_RENDERED, error.message)
        long = self._limit is not None and len(ids) + max(map(len, sides)) > self._limit
        return RenderedPair(ids, sides[0], sides[1], TOO_LONG_FOR_TRAINING if long else None)

    def _response(self, prompt: Sequence[Message], prompt_ids: list[int], response: Sequence[Message]) -> list[int]:
        content = response[-1]["content"]
        if not self._renderer.has_template:
            return [*self._renderer.text(content), self._end([])]
        whole = self._renderer.conversation([*prompt, *response])
        if whole[: len(prompt_ids)] == prompt_ids and len(whole) > len(prompt_ids):
            return self._ended(whole[len(prompt_ids) :])
        self.apart += 1
        return [*self._renderer.text(content), self._end(whole)]

    def _ended(self, ids: list[int]) -> list[int]:
        """`ids` up to the last token that ends a turn, or with one behind them where there is none."""
        last = next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in self._ends), None)
        return ids[: last + 1] if last is not None else [*ids, self._end([])]

    def _end(self, whole: list[int]) -> int:
        """The end token: the last one in a rendered conversation, else the tokenizer's own."""
        found = next((token for token in reversed(whole) if token in self._ends), None)
        if found is not None:
            return found
        return self._eos if self._eos is not None else min(self._ends)
