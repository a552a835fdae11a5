"""What the policy is given for the metrics that ask it more than its log-probs: Ask-LLM's question, and the start of a
response that stands alone (IFD). Token ids out of text, by the policy's tokenizer and chat template; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer

# Departs from the prompt of Sachdeva et al. (2024), "How to Train Data-Efficient LLMs" (arXiv 2402.09668), figure 3, in
# what it asks about: an example of a response to be trained on, where theirs is a paragraph of pre-training text.
QUESTION = """###
{example}
###

Is the example between ### and ### worth training a language model on? The response should be correct, helpful and well
written, and hold nothing harmful.

OPTIONS:
- yes
- no

ANSWER:"""
CUT = "\n[...]\n"
SPELLINGS = ("yes", "Yes", "YES", " yes", " Yes", " YES")
# where no spelling is one token: these are spelled out
SPELLED_OUT = ("yes", "Yes")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A question's token ids; `trimmed`: the middle of its example was left out, so that it fits the context."""

    token_ids: list[int]
    trimmed: bool


class AskLlm:
    """Renders the question whether an example is worth training on, and knows the token ids of "yes".

    The question is one user message (without the run's system prompt) in the policy's own chat template, or plain text
    with `chat_template: none`. `max_length`: tokens that question and answer may have together; of an example that is
    too long the middle is left out (the authors keep its beginning; the response, which is what is judged, stands at
    the end here). Raises ConfigError where not even the bare question fits, or the tokenizer cannot write "yes".

    `answers`: token ids of each spelling that is one token; where none is one, of "yes" and "Yes" spelled out.
    """

    def __init__(self, renderer: ChatRenderer, max_length: int) -> None:
        self._renderer = renderer
        self.answers = yes_token_ids(renderer.tokenizer)
        self._limit = max_length - max(map(len, self.answers))
        bare = len(self._render(CUT))
        if bare > self._limit:
            raise ConfigError(
                f"metric ask_llm: the question takes {bare} tokens without an example; there are {self._limit}",
                "Choose a metric that asks the policy nothing, or a policy with a longer context.",
            )

    def render(self, messages: Sequence[Message], response: str) -> Rendered:
        """The question about a response to a conversation. Raises DataError where the tokenizer cannot write the text."""
        example = example_text(messages, response)
        token_ids = self._render(example)
        if len(token_ids) <= self._limit:
            return Rendered(token_ids, trimmed=False)
        # the most characters, half from either end, that fit
        fits, too_many = 0, len(example)
        token_ids = self._render(CUT)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            tried = self._render(_trimmed(example, middle))
            if len(tried) <= self._limit:
                fits, token_ids = middle, tried
            else:
                too_many = middle
        return Rendered(token_ids, trimmed=True)

    def _render(self, example: str) -> list[int]:
        # not str.format: the example may hold braces
        return self._renderer.prompt([{"role": "user", "content": QUESTION.replace("{example}", example)}])


def example_text(messages: Sequence[Message], response: str) -> str:
    """A conversation and its response as the question shows them."""
    turns: list[Message] = [*messages, {"role": "assistant", "content": response}]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def _trimmed(text: str, num_chars: int) -> str:
    tail = num_chars // 2
    return text[: num_chars - tail] + CUT + text[len(text) - tail :]


def yes_token_ids(tokenizer: Any) -> list[list[int]]:
    """Token ids of the answers that count as yes: no answer is the beginning of another."""
    encoded = {text: list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in SPELLINGS}
    usable = {text: ids for text, ids in encoded.items() if ids and tokenizer.unk_token_id not in ids}
    single = sorted({ids[0] for ids in usable.values() if len(ids) == 1})
    if single:
        return [[token] for token in single]
    # a tokenizer without case has one spelling twice
    spelled = sorted({tuple(usable[text]) for text in SPELLED_OUT if text in usable})
    answers = [list(ids) for ids in spelled if not any(ids[: len(one)] == one for one in spelled if one != ids)]
    if not answers:
        raise ConfigError(
            "metric ask_llm: the policy's tokenizer cannot write 'yes'",
            "Choose a metric that asks the policy nothing.",
        )
    return answers


def start_token_id(tokenizer: Any) -> int:
    """The token that stands before a response that has no prompt (IFD): BOS; where the tokenizer has none, its end
    token, which separates texts in training. Without a token before it the first token of a response would have no
    probability, and the two losses of IFD would be means over different tokens."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ConfigError(
            "metric ifd: the policy's tokenizer has neither a BOS nor an end token to put before a response",
            "Choose a metric that does not need the response alone.",
        )
    return int(token)
