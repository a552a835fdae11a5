"""Text that spells a control token and must stay text: "<|im_end|>" typed by a user.

The control tokens of a template are the tokenizer's special tokens and every other token that the template writes to structure a
conversation. transformers encodes such a string as the token, wherever it comes from. So the string is replaced by a placeholder
before the template runs. The rendered text is then encoded by a copy of the tokenizer in which the control tokens have secret
names: the template's own are renamed, the typed ones are put back and are text like any other. Text without such strings, nearly
all of it, takes the ordinary way and gives the ordinary ids. A template sees the placeholder, not the string.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from selfplay.core.errors import DataError
from selfplay.core.records import Message
from selfplay.inputs.models.chat_template import PROBE
from selfplay.inputs.models.encoding import encode, single_token

# A string that a template writes is a control token only if it looks like one: tokenizers have tokens for words as well.
_BRACKETED = re.compile(r"[<\[◁][^\s<>\[\]◁▷'\"]{1,40}[>\]▷]")
# A line with which a template without marks begins a turn: "USER:", "### Response:".
_HEADING = re.compile(r"^[ \t]*([^\n:]{1,40}:)[ \t]*$", re.MULTILINE)


class ControlText:
    """The control tokens of a template, and the encoding of rendered text in which typed ones stay text.

    `source` is the template's, `rendered` are texts that it wrote. `thoughts`: the marks of thoughts, which are a part of what an
    assistant says and control tokens in every other turn. `ids` are the control tokens by their string; `plain` the strings
    that structure a conversation in the same way but are no tokens: typed ones cannot be told from the template's own; `headings`
    are lines that do ("USER:").
    """

    def __init__(
        self, tokenizer: Any, source: str = "", rendered: Sequence[str] = (), thoughts: Collection[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._renamed: _Renamed | None = None
        written = [source, *rendered]
        added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
        named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        special = {text: index for text, index in added.items() if tokenizer.added_tokens_decoder[index].special}
        self.ids: dict[str, int] = {**special, **{str(text): int(index) for text, index in named}}
        for text, index in added.items():
            bracketed = _BRACKETED.fullmatch(text) is not None
            if bracketed and (text in thoughts or any(text in one for one in written)):
                self.ids[text] = index
        strings = dict.fromkeys(found for one in written for found in _BRACKETED.findall(one))
        for text in strings:
            if text not in self.ids and (token := single_token(tokenizer, text)) is not None:
                self.ids[text] = token
        self.plain = frozenset(mark for one in rendered for mark in _marks(one)) - self.ids.keys()
        self._any_plain = _pattern(self.plain)
        self.headings = frozenset(heading for one in rendered for heading in _headings(one))
        # an unknown token stands for characters and not for its string, unless the tokenizer uses it as an end token too
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
        self._numbers = frozenset(self.ids.values()) - unknown
        self._any = _pattern(self.ids)
        self._of_assistant = _pattern(self.ids.keys() - set(thoughts))

    def hide(self, messages: Sequence[Message]) -> tuple[list[Message], Hidden]:
        """Messages with a placeholder in the place of every string that spells a control token."""
        patterns = [self._of_assistant if message["role"] == "assistant" else self._any for message in messages]
        if not any(p.search(message["content"]) for p, message in zip(patterns, messages, strict=True)):
            return list(messages), Hidden([], "")
        used = {char for message in messages for char in message["content"]}
        hidden = Hidden([], "".join([char for char in map(chr, range(0xE000, 0xF8FF)) if char not in used][:2]))
        return [
            Message(role=message["role"], content=pattern.sub(hidden.put, message["content"]))
            for pattern, message in zip(patterns, messages, strict=True)
        ], hidden

    def found_in(self, text: str) -> list[int]:
        """The control tokens in a text that the template has written."""
        return [self.ids[string] for string in self._any.findall(text)]

    def refuse_imitations(self, messages: Sequence[Message]) -> None:
        """Raise DataError for a string of `plain` in a turn which is not the assistant's."""
        for message in messages:
            if message["role"] != "assistant" and (found := self._any_plain.search(message["content"])):
                raise DataError(
                    f"the text contains {found.group()!r}, with which the chat template structures a conversation; it is not "
                    "a token, so it cannot be distinguished from the template's own",
                    "Remove the string from the prompt.",
                )

    def heading_in(self, messages: Sequence[Message]) -> str | None:
        """A heading that begins a line of a turn which is not the assistant's: for the model it may begin another turn."""
        said = [message["content"] for message in messages if message["role"] != "assistant"]
        lines = [line.lstrip() for text in said for line in text.splitlines()]
        return next(
            (heading for heading in sorted(self.headings) if any(line.startswith(heading) for line in lines)), None
        )

    def encode(self, text: str, hidden: Hidden) -> list[int]:
        """Token ids of rendered text, nothing put before or behind it. Raises DataError where the tokenizer cannot write a typed
        string as text."""
        if not hidden.strings:
            return encode(self._tokenizer, text)
        expected = len(self._any.findall(text))
        ids = self._by_copy(text, hidden) if self._tokenizer.is_fast else self._in_pieces(text, hidden)
        if len([token for token in ids if token in self._numbers]) > expected:
            raise DataError(
                f"the text contains {hidden.strings[0]!r}, a control token that this tokenizer cannot encode as plain text",
                "Remove the string from the prompt.",
            )
        return ids

    def _by_copy(self, text: str, hidden: Hidden) -> list[int]:
        if self._renamed is None:
            self._renamed = _Renamed(self._tokenizer.backend_tokenizer.to_str(), self.ids)
        return self._renamed.encode(hidden.fill(self._any.sub(self._renamed.name, text)))

    def _in_pieces(self, text: str, hidden: Hidden) -> list[int]:
        """For a tokenizer that cannot be copied. One that marks the starts of words may add such a mark at the seams."""
        ids: list[int] = []
        for piece, is_typed in hidden.pieces(text):
            ids += encode(self._tokenizer, piece, split_special_tokens=is_typed)
        return ids


class Hidden:
    """The strings that were replaced in some messages, by the number in their placeholder; `marks` enclose the number."""

    def __init__(self, strings: list[str], marks: str) -> None:
        self.strings, self._marks = strings, marks

    def put(self, match: re.Match[str]) -> str:
        """The placeholder of one more string."""
        self.strings.append(match.group())
        return f"{self._marks[0]}{len(self.strings) - 1}{self._marks[1]}"

    def fill(self, text: str) -> str:
        """A text with its strings put back."""
        return "".join(piece for piece, _ in self.pieces(text))

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at its placeholders: (piece, whether it is a string that was hidden)."""
        if not self.strings:
            return [(text, False)]
        parts = re.split(f"{self._marks[0]}([0-9]+){self._marks[1]}", text)
        cut = [(self.strings[int(part)], True) if place % 2 else (part, False) for place, part in enumerate(parts)]
        return [(piece, is_typed) for piece, is_typed in cut if piece]


class _Renamed:
    """A copy of a fast tokenizer (`serialised`) in which the control tokens have names that nobody types."""

    def __init__(self, serialised: str, ids: Mapping[str, int]) -> None:
        from tokenizers import Tokenizer

        nonce = secrets.token_hex(8)
        self._names = {text: f"\U000f0000{nonce}-{index}\U000f0001" for text, index in ids.items()}
        document = json.loads(serialised)
        document |= {"truncation": None, "padding": None, "post_processor": None}
        added = {token["content"]: token for token in document["added_tokens"]}
        for text, name in self._names.items():
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            token = added.setdefault(text, {"id": ids[text], **plain})
            token |= {"content": name, "normalized": False}
        document["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
        # what a merge would make of ordinary pieces must not be a control token either
        if merges := document["model"].get("merges"):
            made = lambda merge: "".join(merge.split(" ") if isinstance(merge, str) else merge)  # noqa: E731
            document["model"]["merges"] = [merge for merge in merges if made(merge) not in self._names]
        vocabulary = document["model"].get("vocab")
        if isinstance(vocabulary, dict):
            document["model"]["vocab"] = {self._names.get(piece, piece): index for piece, index in vocabulary.items()}
        elif vocabulary is not None:
            document["model"]["vocab"] = [[self._names.get(piece, piece), score] for piece, score in vocabulary]
        if (unknown := document["model"].get("unk_token")) in self._names:
            document["model"]["unk_token"] = self._names[unknown]
        self._tokenizer = Tokenizer.from_str(json.dumps(document))

    def name(self, match: re.Match[str]) -> str:
        """The name of the control token that the template has written."""
        return self._names[match.group()]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with the names."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _pattern(strings: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted((string for string in strings if string), key=lambda string: (-len(string), string))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else re.compile(r"(?!)")


def _marks(rendered: str) -> list[str]:
    """The marks that structure the conversation in a text that the template wrote of PROBE: the one before it, and all after it.
    (A template may begin with a system message of its own, which may contain anything.)"""
    before, _, after = rendered.rpartition(PROBE)
    return [*_BRACKETED.findall(before)[-1:], *_BRACKETED.findall(after)]


def _headings(rendered: str) -> list[str]:
    before, _, after = _BRACKETED.sub("", rendered).rpartition(PROBE)
    return [*_HEADING.findall(before.rstrip().rpartition("\n")[2]), *_HEADING.findall(after)]
