"""Where a policy's thoughts end and its final answer begins: what `reward.sees: final` scores.

The form is found in the chat template and the tokenizer. Marks that are tokens, ordinary or special, are looked for among the
response's token ids, other marks in its text. There are two forms: thoughts between two marks (<think> and </think>, [THINK] and
[/THINK], ...), which the prompt may have opened already, and the channels of gpt-oss. A response of a dataset is text only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.inputs.models.encoding import single_token

UNCLOSED_THINKING = "unclosed_thinking"
NO_FINAL_ANSWER = "no_final_answer"

# What a mark looks like, and the words by which a pair of marks is known to enclose thoughts.
_MARK = re.compile(r"[<\[◁][^\s<>\[\]◁▷'\"{}]{1,40}[>\]▷]")
_WORDS = re.compile(r"think|thought|reason|reflect")
# Pairs that are not known by such a word, or that a dataset may hold while no template is there to name them.
_KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>", "<channel|>"),
    ("Here is my thought process:", "Here is my response:"),
)
# Tokens at the end of a prompt in which an opening mark is looked for.
_TAIL = 64
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_START, _ENDS = "<|start|>", ("<|end|>", "<|return|>", "<|call|>", "<|start|>")
_CHANNELS_TEXT = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|$)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer of a response. `text` is None where it is the whole response; `missing` is the reason why there is no
    final answer."""

    text: str | None = None
    missing: str | None = None


WHOLE = Answer()


class Thinking:
    """Finds final answers. `tokenizer` and `template` are the policy's (None: no tokenizer; no template).

    `reads_tokens`: `answer` needs the token ids of prompt and response, else `in_text` is enough. `marks` are all marks of
    thoughts.
    """

    def __init__(self, tokenizer: Any | None = None, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        pairs = _pairs(tokenizer, template)
        ids = {mark: self._token_id(mark) for pair in pairs for mark in pair}
        self._pairs = [pair for pair in pairs if None not in (ids[pair[0]], ids[pair[1]])]
        self._opens, self._closes = ({ids[pair[side]] for pair in self._pairs} for side in (0, 1))
        self._turns = _special_ids(tokenizer) - self._opens - self._closes
        self._text_pairs = [pair for pair in pairs if pair not in self._pairs]
        marks = sorted({mark for pair in self._text_pairs for mark in pair}, key=len, reverse=True)
        self._text_marks = re.compile("|".join(map(re.escape, marks)) if marks else r"(?!)")
        names = {name: self._token_id(name) for name in (_CHANNEL, _MESSAGE, _START, *_ENDS)}
        self._channels = names if None not in (names[_CHANNEL], names[_MESSAGE]) else None
        self._may_be_opened = [opening for opening, _ in self._text_pairs if opening in (template or "")]
        self.reads_tokens = bool(self._pairs or self._may_be_opened) or self._channels is not None
        self.marks = frozenset(mark for pair in pairs for mark in pair)

    def _token_id(self, mark: str) -> int | None:
        return None if self._tokenizer is None else single_token(self._tokenizer, mark)

    def describe(self) -> str:
        """The form that was found, for people; empty where template and tokenizer name none."""
        if self._channels is not None:
            return "its final answer is the message in the channel final; other channels are thoughts"
        if self._may_be_opened and not self._pairs:
            pairs = [f"{a} and {b}" for a, b in self._text_pairs if a in self._may_be_opened]
            return f"its thoughts are between {' or '.join(pairs)} (as plain text)"
        if not self._pairs:
            return ""
        special = not self._opens.isdisjoint(_special_ids(self._tokenizer))
        kind = "special tokens, which are not in the text of a response" if special else "tokens"
        return f"its thoughts are between {' or '.join(f'{a} and {b}' for a, b in self._pairs)} ({kind})"

    def opened_by(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a response to this prompt begins inside a thought that the prompt has opened."""
        for token in reversed(prompt_ids):
            if token in self._opens:
                return True
            if token in self._closes or token in self._turns:
                break
        if not self._may_be_opened:
            return False
        tail = self._decode(prompt_ids[-_TAIL:]).rstrip()
        return any(tail.endswith(opening) for opening in self._may_be_opened)

    def answer(self, prompt_ids: Sequence[int], token_ids: Sequence[int], text: str) -> Answer:
        """The final answer of a sampled response: `token_ids` without the token that stopped it, `text` as it is stored."""
        if self._channels is not None:
            return self._in_channels(prompt_ids, token_ids)
        inside = self.opened_by(prompt_ids)
        found = self._in_tokens(token_ids, inside) if self._pairs else WHOLE
        # a model may write other marks than its tokenizer has
        return self.in_text(text, inside and not self._pairs) if found == WHOLE else found

    def in_text(self, text: str, inside: bool = False) -> Answer:
        """The final answer of a response of which there is only text. `inside`: it begins inside a thought."""
        if found := _CHANNELS_TEXT.findall(text):
            finals = [content for channel, content in found if channel == "final"]
            return Answer(finals[-1].lstrip()) if finals else Answer(missing=NO_FINAL_ANSWER)
        opens, closes = ({pair[side] for pair in self._text_pairs} for side in (0, 1))
        start, closed = 0, False
        for found_mark in self._text_marks.finditer(text):
            mark, end = found_mark.group(), found_mark.end()
            # in prose an opening mark may be spoken of: it opens a thought at the start, or where the thought is closed later
            if mark in opens and not inside:
                at_start = not text[start : found_mark.start()].strip()
                inside = at_start or any(closing in text[end:] for closing in closes)
            elif mark in closes and (inside or not closed):
                inside, closed, start = False, True, end
        if inside:
            return Answer(missing=UNCLOSED_THINKING)
        return Answer(text[start:].lstrip()) if closed else WHOLE

    def _in_tokens(self, token_ids: Sequence[int], inside: bool) -> Answer:
        """What follows the last thought. A closing mark that closes nothing counts only where no thought was closed before:
        the prompt of some models opens the thought without a mark."""
        start, closed = 0, False
        for place, token in enumerate(token_ids):
            if token in self._opens:
                inside = True
            elif token in self._closes and (inside or not closed):
                inside, closed, start = False, True, place + 1
        if inside:
            return Answer(missing=UNCLOSED_THINKING)
        return Answer(self._decode(token_ids[start:]).lstrip()) if closed else WHOLE

    def _in_channels(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Answer:
        """The last message in the channel final. The header of the first message may stand in the prompt."""
        assert self._channels is not None
        channel, message = self._channels[_CHANNEL], self._channels[_MESSAGE]
        assert channel is not None
        ends = {self._channels[name] for name in _ENDS} - {None}
        begin = len(prompt_ids) - next((n for n, i in enumerate(reversed(prompt_ids), 1) if i in ends), 0)
        prefix = list(prompt_ids[begin:])
        answer: list[int] | None = None
        header: list[int] = []
        is_final = False
        content: list[int] | None = None
        for place, token in enumerate([*prefix, *token_ids]):
            if token in ends:
                answer = content if is_final and content is not None else answer
                header, is_final, content = [], False, None
            elif content is not None:
                # what the prompt has put into the message already is not the response's
                content += [token] if place >= len(prefix) else []
            elif token == message:
                name = header[header.index(channel) + 1 :] if channel in header else []
                is_final, content = self._decode(name).strip().startswith("final"), []
            else:
                header.append(token)
        if is_final and content is not None:
            answer = content
        return Answer(missing=NO_FINAL_ANSWER) if answer is None else Answer(self._decode(answer).lstrip())

    def _decode(self, token_ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def _special_ids(tokenizer: Any | None) -> set[int]:
    added = tokenizer.added_tokens_decoder if tokenizer is not None else {}
    return {index for index, token in added.items() if token.special}


def _pairs(tokenizer: Any | None, template: str | None) -> list[tuple[str, str]]:
    """Pairs of marks (opening, closing) of thoughts: those of template and tokenizer by their words, and the known ones."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()] if tokenizer is not None else []
    seen = dict.fromkeys([*added, *_MARK.findall(template or "")])
    opening: dict[tuple[str, ...], str] = {}
    closing: dict[tuple[str, ...], str] = {}
    for mark in seen:
        words = re.findall(r"/|[a-z]+", mark.lower())
        name = tuple(word for word in words if word not in ("/", "begin", "start", "end", "of", "open", "close"))
        if any(map(_WORDS.search, name)) and _MARK.fullmatch(mark):
            sides = closing if {"/", "end", "close"} & {*words} else opening
            sides.setdefault(name, mark)
    named = [(opening[name], closing[name]) for name in opening if name in closing]
    there = lambda mark: mark in seen or mark in (template or "")  # noqa: E731
    known = [pair for pair in _KNOWN if tokenizer is None or pair == _KNOWN[0] or all(map(there, pair))]
    return list(dict.fromkeys([*named, *known]))
