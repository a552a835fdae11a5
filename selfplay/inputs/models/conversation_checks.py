"""Checks before a run starts that the tokenizer and the chat template of a model write real prompts.

The template must not fail, every message must be found in the decoded token ids, and the ids must be ids of the model. What loses
text is refused with the example. What concerns some prompts only, or what a person should know, is a warning.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfplay.core.errors import DataError, ModelError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer
from selfplay.inputs.models.chat_template import PROBE, TemplateFailure
from selfplay.inputs.models.example_prompts import Example
from selfplay.inputs.models.files import read_json
from selfplay.inputs.models.template_habits import habits, refuse_lost_marks
from selfplay.inputs.models.thinking import Thinking
from selfplay.inputs.models.trial import tried_renderer, try_template

# The largest share of unknown tokens among those of a message.
_MOST_UNKNOWN = 0.1
# Of a longer message only the beginning is encoded by itself.
_MOST_CHARS = 20_000
_SHOWN = 60


class ConversationCheck:
    """Checks one model. `name` is the setting that names it, `vocab_size` its number of token ids (None: not known). `folder`:
    what its tokenizer was loaded from (None: nowhere)."""

    def __init__(self, name: str, renderer: ChatRenderer, vocab_size: int | None, folder: Path | None = None) -> None:
        self._name, self._renderer, self._vocab_size = name, renderer, vocab_size
        self._tokenizer = renderer.tokenizer
        self._by_file = _tokenizer_of_file(folder) if folder is not None else None
        self._said_of_normalizer = False

    def prompts(self, examples: Sequence[Example]) -> Iterator[str]:
        """Check the prompts of a policy; yields warnings. Raises ModelError."""
        accepted, refused, said = self._rendered(
            examples, lambda one: self._renderer.prompt(one.messages), for_prompts=True
        )
        yield from said
        yield from (f"{message}: such prompts are dropped" for message in refused)
        for example, ids in accepted:
            decoded = _visible(self._decode(ids))
            for message in example.messages:
                yield from self._message(message, decoded, example)
        self._refuse_lost_marks()

    def conversations(self, examples: Sequence[Example]) -> Iterator[str]:
        """Check the conversations of a reward model, prompts with an answer; yields warnings. Raises ModelError."""
        answer = Message(role="assistant", content=PROBE)
        accepted, refused, said = self._rendered(
            examples, lambda one: self._renderer.conversation([*one.messages, answer]), for_prompts=False
        )
        yield from said
        yield from (f"{message}: such responses have no reward" for message in refused)
        for example, ids in accepted:
            decoded = _visible(self._decode(ids))
            for message in example.messages[:-1]:
                if self._is_left_out(message, decoded):
                    yield (
                        f"{self._name}: the chat template leaves out the {message['role']} message "
                        f"{message['content'][:_SHOWN]!r} ({example.what}): the rewards do not depend on it"
                    )
            yield from self._message(example.messages[-1], decoded, example)
            yield from self._message(answer, decoded, example)
        self._refuse_lost_marks()

    def _refuse_lost_marks(self) -> None:
        if self._renderer.has_template:
            refuse_lost_marks(self._name, self._renderer)

    def _rendered(
        self, examples: Sequence[Example], render: Callable[[Example], list[int]], *, for_prompts: bool
    ) -> tuple[list[tuple[Example, list[int]]], list[str], list[str]]:
        """The examples that the template accepts, with their token ids, why it refuses the others, and warnings about its
        habits. A template may refuse some messages; one that fails or refuses all of them is an error."""

        def find_habits() -> list[str]:
            has_template = self._renderer.has_template
            return [*habits(self._name, self._renderer, for_prompts=for_prompts)] if has_template else []

        def run_all() -> None:
            for example in examples:
                with contextlib.suppress(DataError):
                    render(example)
            find_habits()

        try_template(self._name, run_all)
        accepted: list[tuple[Example, list[int]]] = []
        refused: list[str] = []
        for example in examples:
            try:
                ids = render(example)
            except DataError as error:
                refused.append(f"{self._name}: {error.message} ({example.what})")
                if isinstance(error, TemplateFailure) or len(refused) == len(examples):
                    raise ModelError(refused[-1], error.hint) from error
                continue
            if self._vocab_size is not None and max(ids, default=0) >= self._vocab_size:
                raise ModelError(
                    f"{self._name}: the tokenizer writes the token id {max(ids)}, but the model has {self._vocab_size} "
                    f"({example.what})",
                    "The tokenizer belongs to another model: use the tokenizer of this model.",
                )
            accepted.append((example, ids))
        return accepted, refused, find_habits()

    def _message(self, message: Message, decoded: str, example: Example) -> Iterator[str]:
        """Raise ModelError where a message is not in the (visible) decoded token ids of its prompt; yield what else is to be
        said of it."""
        content = _spoken(message)[:_MOST_CHARS]
        ids = self._renderer.text(content)
        _, hidden = self._renderer.control.hide([Message(role="assistant", content=content)])
        unknown = [token for token in ids if token == self._tokenizer.unk_token_id]
        if len(unknown) > _MOST_UNKNOWN * len(ids):
            raise ModelError(
                f"{self._name}: {len(unknown)} of the {len(ids)} tokens of {content[:_SHOWN]!r} are unknown to the tokenizer "
                f"({example.what})",
                "Use the model's own tokenizer, or prompts in a language that it knows.",
            )
        if unknown:
            yield (
                f"{self._name}: {len(unknown)} of the {len(ids)} tokens of {content[:_SHOWN]!r} are unknown to the tokenizer "
                f"({example.what}): the model does not see these characters"
            )
            return
        kind = type(self._tokenizer).__name__
        read_back = [self._decode(ids)]
        if self._by_file is not None:
            # the token ids mean to the model what its own file says
            read_back.append(self._by_file.decode(ids, skip_special_tokens=False))
            if not hidden.strings and ids != self._by_file.encode(content, add_special_tokens=False).ids:
                yield (
                    f"{self._name}: the tokenizer (a {kind}) writes {content[:_SHOWN]!r} with other token ids than its "
                    f"tokenizer.json does ({example.what}): compare tokenizer_class in tokenizer_config.json"
                )
        normal = self._normalised(content)
        if _visible(normal) != _visible(content) and not self._said_of_normalizer:
            self._said_of_normalizer = True
            yield (
                f"{self._name}: the tokenizer's normalizer changes texts ({example.what}): of {_where_differs(content, normal)}"
            )
        words = re.findall(r"[^ \t\r\n]+", content)
        for text in read_back:
            if len(text.split()) < len(words) or not self._holds(_visible(text), content):
                raise ModelError(
                    f"{self._name}: the tokenizer (a {kind}) does not give back its own text: of {content[:_SHOWN]!r} it makes "
                    f"{text[:_SHOWN]!r} ({example.what})",
                    "Its class does not fit its files: compare tokenizer_class in tokenizer_config.json with tokenizer.json.",
                )
        if self._is_left_out(message, decoded):
            raise ModelError(
                f"{self._name}: the chat template leaves out the {message['role']} message {content[:_SHOWN]!r} ({example.what})",
                "Give a chat template that writes it"
                + (", or leave the system message out." if message["role"] == "system" else "."),
            )

    def _is_left_out(self, message: Message, decoded: str) -> bool:
        if message["role"] in self._renderer.left_out:
            return True
        content = _spoken(message)[:_MOST_CHARS]
        unknown = self._tokenizer.unk_token_id in self._renderer.text(content)
        return not unknown and not self._holds(decoded, content)

    def _holds(self, visible: str, content: str) -> bool:
        """Whether decoded text holds a message, as it is or as the tokenizer's own rule normalises it (case, accents)."""
        return _visible(content) in visible or _visible(self._normalised(content)) in visible

    def _normalised(self, text: str) -> str:
        """A text as the tokenizer's own rule makes it before it is cut into tokens."""
        normalizer = self._tokenizer.backend_tokenizer.normalizer if self._tokenizer.is_fast else None
        return text if normalizer is None else str(normalizer.normalize_str(text)).replace("\u2581", " ")

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def check_of_folder(name: str, folder: Path, *, trust_remote_code: bool = False) -> ConversationCheck:
    """The check of a model by its folder, with its own tokenizer and chat template."""
    config = read_json(folder / "config.json")
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    renderer = tried_renderer(name, tokenizer, own_code=trust_remote_code)
    return ConversationCheck(name, renderer, (config.get("text_config") or config).get("vocab_size"), folder)


def _tokenizer_of_file(folder: Path) -> Any | None:
    """The tokenizer as the file tokenizer.json says, without the class that transformers chooses; None where there is no such
    file."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _spoken(message: Message) -> str:
    """What a template must write of a message: of an assistant's turn it may leave the thoughts out."""
    if message["role"] != "assistant":
        return message["content"]
    answer = Thinking().in_text(message["content"])
    return "" if answer.missing else message["content"] if answer.text is None else answer.text


def _where_differs(text: str, other: str) -> str:
    """What a text has and another makes of it, at the first word that differs. Example: "'caf\u00e9' it makes 'cafe'"."""
    for word, made in zip(text.split(), other.split(), strict=False):
        if _visible(word) != _visible(made):
            return f"{word[:_SHOWN]!r} it makes {made[:_SHOWN]!r}"
    return f"{text[:_SHOWN]!r} it makes {other[:_SHOWN]!r}"


def _visible(text: str) -> str:
    """The characters of a text that are seen, in the form in which tokenizers that normalise Unicode have them too."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
