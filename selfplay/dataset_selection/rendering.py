"""Token ids of a dataset's responses under the policy: its log-probs are taken of them.

In a run the token ids come from the sampler and nothing is re-tokenised. In a dataset there is only text, so the ids are made as
a trainer (TRL) makes them: the prompt is rendered up to where the assistant's turn begins, the whole conversation is
rendered too, and the response is the difference. It is cut after the token that ends the turn, which belongs to the response
(a sampled response ends with it too) while a newline that some templates write after it does not. Where the template does
not write the whole conversation as a continuation of the prompt (it changes earlier turns, or takes thinking out of a
response), the response is its text encoded by itself with that end token behind it. A base model (`chat_template: none`)
always has its response that way, ended by the tokenizer's end token.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.core.errors import ConfigError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer


class ResponseRenderer:
    """Token ids of prompts and of responses to them. `stop_token_ids` end a turn (the tokenizer's end token and those of the
    generation config). `num_apart` counts the responses that were encoded by themselves though there is a template. Methods
    raise DataError for what the template or the tokenizer cannot write."""

    def __init__(self, renderer: ChatRenderer, stop_token_ids: Sequence[int]) -> None:
        self._renderer, self._ends = renderer, frozenset(stop_token_ids)
        self._eos: int | None = renderer.tokenizer.eos_token_id
        if self._eos is None and not self._ends:
            raise ConfigError(
                "the policy's tokenizer has no end token",
                "A complete response ends with one. Give a complete tokenizer.",
            )
        self.num_apart = 0

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The prompt up to where the assistant's turn begins."""
        return self._renderer.prompt(messages)

    def response(self, prompt: Sequence[Message], prompt_ids: list[int], text: str) -> list[int]:
        """The response with the token that ends its turn."""
        if not self._renderer.has_template:
            return [*self._renderer.text(text), self._end([])]
        whole = self._renderer.conversation([*prompt, Message(role="assistant", content=text)])
        if whole[: len(prompt_ids)] == prompt_ids and len(whole) > len(prompt_ids):
            return self._ended(whole[len(prompt_ids) :])
        self.num_apart += 1
        return [*self._renderer.text(text), self._end(whole)]

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
