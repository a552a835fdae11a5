"""From messages to token ids, for the policy's prompts and for the reward model's conversations.

Used by stage *prompts* and inside *score*. Needs a transformers tokenizer and no torch.

Control tokens come from the chat template only. Text that happens to spell one ("<|end|>" typed by a user) is
encoded as the characters it consists of. transformers has no switch for this in `apply_chat_template`, so such
a string is replaced by a placeholder before the template runs and encoded by itself afterwards, without the
tokenizer's special tokens. Text without such strings, nearly all of it, takes the ordinary way and gives the
ordinary ids. Two limits remain: a template sees the placeholder, not the string, and a tokenizer that marks
word starts (SentencePiece) may add such a mark at the seams.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.config.named_files import NO_TEMPLATE, is_template_file
from selfplay.core.errors import ConfigError, DataError, ModelError
from selfplay.core.records import Message

_SET_HERE = {
    "add_generation_prompt",
    "chat_template",
    "conversation",
    "continue_final_message",
    "messages",
    "tokenize",
}


class ChatRenderer:
    """Renders conversations with one tokenizer and one chat template.

    `chat_template`: None is the tokenizer's own, "none" is plain text for base models (then a conversation is
    exactly one user message, encoded with the special tokens that the tokenizer itself puts before a text),
    else a Jinja template. `chat_template_kwargs` are further variables of the template; one that it does not
    mention is refused.

    BOS is there exactly once if the template or the tokenizer's own rule adds one, or both; if neither does, there
    is none. This departs from `apply_chat_template` only where the template leaves out the
    BOS that the tokenizer puts before any other text.

    Raises ConfigError if there is no template and `chat_template` is not "none", and for invalid kwargs.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._kwargs = dict(chat_template_kwargs or {})
        self._template = None if chat_template == NO_TEMPLATE else self._find_template(chat_template)
        self._check_kwargs()
        self._special = _special_tokens(tokenizer)
        strings = sorted(self._special, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, strings))) if strings else re.compile(r"(?!)")
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        # What the tokenizer puts before a text; what it puts after one (an end token) has no place in a prompt.
        self._own_start = whole[: next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)]
        self._tokenizer_adds_bos = tokenizer.bos_token_id in self._own_start

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that this renderer uses."""
        return self._tokenizer

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that ends in a user turn, up to where the assistant's turn begins.

        Raises DataError when the template refuses the messages (an unknown role or order of roles), or if
        there is no template and the messages are not exactly one user message.
        """
        return self._plain(messages) if self._template is None else self._render(messages, True)

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, the assistant's last turn included: what a reward model reads."""
        if self._template is None:
            raise ConfigError(
                "a conversation cannot be rendered without a chat template",
                "chat_template: none is for the prompts of a base model only.",
            )
        return self._render(messages, False)

    def text(self, text: str) -> list[int]:
        """Token ids of a text by itself: nothing is put before or after it, and strings that spell control tokens
        are encoded as text. Raises DataError where the tokenizer cannot do that."""
        replaced, typed, marks = self._hide_specials([{"role": "assistant", "content": text}])
        return self._encode(replaced[0]["content"], typed, marks)

    @property
    def has_template(self) -> bool:
        """Whether conversations are written by a chat template (else as the plain text of a base model)."""
        return self._template is not None

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        from jinja2.exceptions import TemplateError

        replaced, typed, marks = self._hide_specials(messages)
        try:
            text = self._tokenizer.apply_chat_template(
                replaced,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._kwargs,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"the chat template refuses messages with the roles {roles}: {error}",
                "Change the messages (or drop the system prompt), or give another chat_template.",
            ) from error
        return self._one_bos(self._encode(text, typed, marks))

    def _plain(self, messages: Sequence[Message]) -> list[int]:
        if len(messages) != 1 or messages[0]["role"] != "user":
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"chat_template: none takes one user message a prompt, this one has the roles {roles}",
                "Without a template there is no way to write several turns or a system prompt; give a chat_template.",
            )
        replaced, typed, marks = self._hide_specials(messages)
        return self._one_bos([*self._own_start, *self._encode(replaced[0]["content"], typed, marks)])

    def _hide_specials(self, messages: Sequence[Message]) -> tuple[list[Message], list[str], str]:
        """Messages with every special string replaced by a numbered placeholder; those strings; the
        placeholder's marks."""
        typed: list[str] = []
        if not any(self._pattern.search(message["content"]) for message in messages):
            return list(messages), typed, ""
        used = {char for message in messages for char in message["content"]}
        opening, closing = [char for char in map(chr, range(0xE000, 0xF8FF)) if char not in used][:2]

        def hide(match: re.Match[str]) -> str:
            typed.append(match.group())
            return f"{opening}{len(typed) - 1}{closing}"

        replaced: list[Message] = [
            {"role": message["role"], "content": self._pattern.sub(hide, message["content"])} for message in messages
        ]
        return replaced, typed, opening + closing

    def _encode(self, text: str, typed: list[str], marks: str) -> list[int]:
        """Token ids of rendered text without the tokenizer's own additions; placeholders become their string's
        characters."""
        if not typed:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        ids: list[int] = []
        for index, piece in enumerate(re.split(f"{marks[0]}([0-9]+){marks[1]}", text)):
            if index % 2 == 0:
                ids += self._tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
            else:
                ids += self._encode_as_text(typed[int(piece)])
        return ids

    def _encode_as_text(self, string: str) -> list[int]:
        """Token ids of a special token's string as ordinary text. Raises DataError where the tokenizer cannot."""
        ids = list(self._tokenizer(string, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if self._special[string] in ids:
            raise DataError(
                f"the text contains {string!r}, a control token that this tokenizer cannot encode as plain text",
                "Remove the string from the prompt.",
            )
        return ids

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        return [bos, *ids[start:]] if start or self._tokenizer_adds_bos else ids

    def _find_template(self, chat_template: str | None) -> str:
        try:
            template: str = self._tokenizer.get_chat_template(chat_template)
        except ValueError as error:
            raise ConfigError(
                f"the tokenizer of {self._tokenizer.name_or_path} has no chat template",
                "For a base model set chat_template: none; otherwise give a Jinja file as chat_template.",
            ) from error
        return template

    def _check_kwargs(self) -> None:
        for name in self._kwargs:
            if name in _SET_HERE:
                raise ConfigError(f"chat_template_kwargs.{name} is set by selfplay", "Remove it.")
            if self._template is None or not re.search(rf"\b{re.escape(name)}\b", self._template):
                raise ConfigError(
                    f"chat_template_kwargs.{name} does nothing: the chat template does not mention {name!r}",
                    "Remove it, or check its spelling against the template.",
                )


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a model's folder. Raises ModelError when transformers cannot build it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"the tokenizer in {folder} does not load: {type(error).__name__}: {str(error).splitlines()[0]}",
            "Save it there with tokenizer.save_pretrained, or name a complete model.",
        ) from error


def read_chat_template(value: str | None, base_dir: str | Path) -> str | None:
    """The `chat_template` setting as ChatRenderer takes it: a Jinja template is itself, anything else but
    "none" a file's path, relative to `base_dir`. Raises ConfigError when there is no such file."""
    if value is None or not is_template_file(value):
        return value
    path = Path(base_dir, Path(value).expanduser())
    if not path.is_file():
        raise ConfigError(
            f"chat_template: no such file: {path}",
            "Give a Jinja file, a Jinja template, or none for a base model; leave it out for the tokenizer's own.",
        )
    return path.read_text(encoding="utf-8")


def stop_token_ids(tokenizer: Any, generation_eos_ids: Sequence[int]) -> tuple[int, ...]:
    """Where sampling stops: the tokenizer's end token and those of the generation config (`model_files` and
    `preflight` read them from the folder), sorted."""
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(sorted({*own, *generation_eos_ids}))


def final_answer(response: str) -> str | None:
    """The response after its leading <think>...</think> block, without the blank lines that follow it; None
    when the block is not closed.

    Some templates open the block themselves, so that the response has only its end: then what follows the end
    is the answer.
    """
    _, found, answer = response.partition("</think>")
    if not response.lstrip().startswith("<think>") and not found:
        return response
    if not found:
        return None
    return answer.lstrip()


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """String and id of every control token of the tokenizer."""
    special = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return {**special, **{str(text): index for text, index in named}}
