"""From messages to token ids, for the policy's prompts and for the reward model's conversations.

Used by stage *prompts* and inside *score*. Needs a transformers tokenizer and no torch. The template is run by
`chat_template.py`; text that spells a control token stays text, see `control_text.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from selfplay.config.named_files import NO_TEMPLATE, is_template_file
from selfplay.core.errors import ConfigError, DataError, ModelError
from selfplay.core.records import Message
from selfplay.inputs.models.chat_template import NAMED_HINT, ChatTemplate, check_kwargs, without_default
from selfplay.inputs.models.control_text import ControlText
from selfplay.inputs.models.encoding import encode
from selfplay.inputs.models.thinking import Thinking


class ChatRenderer:
    """Renders conversations with one tokenizer and one chat template.

    `chat_template`: None is the tokenizer's own, "none" is plain text for base models (then a conversation is
    exactly one user message, encoded with the special tokens that the tokenizer itself puts before a text),
    else a Jinja template. `chat_template_kwargs` are further variables of the template; one that it does not
    mention is refused. `thinking` is the form of thoughts that tokenizer and template have, `control` are their control tokens.
    `guard` is entered around what runs the tokenizer, which may be code of somebody else.

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
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._tokenizer, self.guard = tokenizer, guard
        self._template: ChatTemplate | None = None
        if chat_template == NO_TEMPLATE:
            check_kwargs(chat_template_kwargs or {}, None)
            self.thinking = Thinking(tokenizer)
            self.control = ControlText(tokenizer)
        else:
            template = ChatTemplate(tokenizer, self._find_template(chat_template), chat_template_kwargs or {})
            self._template, self.thinking = template, Thinking(tokenizer, template.source)
            self.control = ControlText(tokenizer, template.source, [*template.rendered.values()], self.thinking.marks)
        bare = encode(tokenizer, "a")
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

        Raises DataError when the template refuses the messages (an unknown role or order of roles) or fails, if a text contains a
        string that structures the template's conversations and is no token, or if there is no template and the messages are not
        exactly one user message.
        """
        with self.guard():
            return self._plain(messages) if self._template is None else self._render(self._template, messages, True)

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, the assistant's last turn included: what a reward model reads."""
        if self._template is None:
            raise ConfigError(
                "a conversation cannot be rendered without a chat template",
                "chat_template: none is only for the prompts of a base model.",
            )
        with self.guard():
            return self._render(self._template, messages, False)

    def text(self, text: str) -> list[int]:
        """Token ids of an assistant's text alone: nothing is put before or after it, and strings that spell control
        tokens are encoded as text. Raises DataError where the tokenizer cannot do that."""
        replaced, hidden = self.control.hide([Message(role="assistant", content=text)])
        with self.guard():
            return self.control.encode(replaced[0]["content"], hidden)

    @property
    def has_template(self) -> bool:
        """Whether conversations are written by a chat template (else as the plain text of a base model)."""
        return self._template is not None

    @property
    def template_source(self) -> str:
        """The Jinja source of the chat template; empty without one."""
        return self._template.source if self._template is not None else ""

    def written(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text that the chat template writes, as it is. Raises DataError as `prompt`; there is a template."""
        assert self._template is not None, "there is a template"
        with self.guard():
            return self._template.render(messages, add_generation_prompt)

    @property
    def left_out(self) -> frozenset[str]:
        """The roles whose messages the chat template does not write."""
        return self._template.left_out if self._template is not None else frozenset()

    @property
    def turn_ends(self) -> list[int]:
        """The control tokens that the chat template writes after an assistant's turn."""
        return self.control.found_in(self._template.turn_end) if self._template is not None else []

    def _render(self, template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        self.control.refuse_imitations(messages)
        replaced, hidden = self.control.hide(messages)
        return self._one_bos(self.control.encode(template.render(replaced, add_generation_prompt), hidden))

    def _plain(self, messages: Sequence[Message]) -> list[int]:
        if len(messages) != 1 or messages[0]["role"] != "user":
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"chat_template: none takes one user message for each prompt; this prompt has the roles {roles}",
                "Several turns or a system prompt need a template: give a chat_template.",
            )
        replaced, hidden = self.control.hide(messages)
        return self._one_bos([*self._own_start, *self.control.encode(replaced[0]["content"], hidden)])

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
            own = self._tokenizer.chat_template
            named = sorted(own) if isinstance(own, dict) else []
            raise ConfigError(
                f"the tokenizer of {self._tokenizer.name_or_path} {without_default(named)}",
                NAMED_HINT
                if named
                else "For a base model set chat_template: none; otherwise give a Jinja file as chat_template.",
            ) from error
        return template


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a model's folder. Raises ModelError when transformers cannot build it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except KeyboardInterrupt:
        raise
    # a tokenizer of another class than its files raises whatever it meets, and code of its own may try to end the command
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the tokenizer in {folder} does not load: {type(error).__name__}: {reason}",
            "Save it there with tokenizer.save_pretrained, or name a complete model. If its files are there, tokenizer_class in "
            "tokenizer_config.json may not fit them.",
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
    """Where sampling stops: the tokenizer's end token and those of the generation config (see
    `preflight.generation_eos_ids`), sorted."""
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(sorted({*own, *generation_eos_ids}))
