"""Runs a chat template: messages in, text out.

A template is a program of somebody else. What it raises becomes a DataError with the reason and the line, and it has a time
limit. Some templates read a message's content as a text, others as a list of parts ({"type": "text", "text": ...}); for each role
the form is found by rendering a sentence with it, and texts are given in that form.
"""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from selfplay.core.errors import ConfigError, DataError
from selfplay.core.records import Message
from selfplay.inputs.models.time_limit import OutOfTime, time_limit

SECONDS = 10.0
# A rendered text has the messages' characters and the template's own. One that has many more will never be tokenised.
_MOST_CHARS, _MOST_GROWTH = 1_000_000, 20
# A word that no template holds.
PROBE = "qzvjk"
_SET_HERE = {
    "add_generation_prompt",
    "chat_template",
    "conversation",
    "continue_final_message",
    "messages",
    "tokenize",
}


NAMED_HINT = (
    "Write one of them into a Jinja file (in Python they are AutoTokenizer.from_pretrained(FOLDER).chat_template) and give "
    "that as chat_template."
)


def without_default(names: Sequence[str]) -> str:
    """What is said of a tokenizer that has no chat template, or only such with these names, of which none is the default."""
    return f"has the chat templates {', '.join(names)} and no default one" if names else "has no chat template"


class TemplateFailure(DataError):
    """The template itself is at fault (invalid Jinja, an error while it runs, no end), whatever the messages are."""


class _Endless(TemplateFailure):
    pass


class ChatTemplate:
    """A Jinja chat template with its own variables (`kwargs`), run by a tokenizer of transformers.

    `part_roles` are the roles whose content it reads as a list of parts, `rendered` is a text that it wrote for each role;
    `left_out` are the roles whose content it does not write. `turn_end` is what it writes after an
    assistant's turn. Raises ConfigError for kwargs that do nothing.
    """

    def __init__(self, tokenizer: Any, source: str, kwargs: Mapping[str, Any]) -> None:
        self._tokenizer, self.source, self._kwargs = tokenizer, source, dict(kwargs)
        check_kwargs(self._kwargs, source)
        self.part_roles: frozenset[str] = frozenset()
        self.rendered: dict[str, str] = {}
        self.left_out: frozenset[str] = frozenset()
        user = Message(role="user", content="x")
        probes: dict[str, list[Message]] = {
            "user": [Message(role="user", content=PROBE)],
            "system": [Message(role="system", content=PROBE), user],
            "assistant": [user, Message(role="assistant", content=PROBE)],
        }
        with contextlib.suppress(_Endless):  # it is said of the real messages
            for role, messages in probes.items():
                self._find_form(role, messages, role != "assistant")
        self.turn_end = self.rendered.get("assistant", "").rpartition(PROBE)[2]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of a conversation. Raises DataError where the template refuses the messages, TemplateFailure where it
        fails."""
        from jinja2.exceptions import TemplateError

        roles = ", ".join(message["role"] for message in messages)
        try:
            with time_limit(SECONDS):
                text: str = self._tokenizer.apply_chat_template(
                    [self._formed(message) for message in messages],
                    chat_template=self.source,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._kwargs,
                )
        except OutOfTime as error:
            raise _Endless(
                f"the chat template does not end: {SECONDS:g} seconds were not enough for messages with the roles {roles}",
                "Correct the template, or give another chat_template.",
            ) from error
        except Exception as error:  # whatever a program of somebody else raises
            # raise_exception of a template raises this very class; its subclasses are errors of the template
            if type(error) is TemplateError:
                raise DataError(
                    f"the chat template refuses messages with the roles {roles}: {error}",
                    "Change the messages (or drop the system prompt), or give another chat_template.",
                ) from error
            reason = " ".join(str(error).split())[:200]
            raise TemplateFailure(
                f"the chat template fails{_line(error)} for messages with the roles {roles}: "
                f"{type(error).__name__}: {reason}",
                "Correct the template, or give another chat_template.",
            ) from error
        if len(text) > _MOST_CHARS + _MOST_GROWTH * sum(len(message["content"]) for message in messages):
            raise TemplateFailure(
                f"the chat template writes {len(text)} characters for messages with the roles {roles}",
                "Correct the template, or give another chat_template.",
            )
        return text

    def _formed(self, message: Message) -> dict[str, Any]:
        if message["role"] in self.part_roles:
            return {**message, "content": [{"type": "text", "text": message["content"]}]}
        return dict(message)

    def _find_form(self, role: str, messages: Sequence[Message], add_generation_prompt: bool) -> None:
        """Give a role's content as parts where only these are written. Where neither is, the text stays, and what is wrong is
        said of the real messages. Raises _Endless."""
        as_text, left_out = self.part_roles, False
        for part_roles in (as_text, as_text | {role}):
            self.part_roles = part_roles
            try:
                text = self.render(messages, add_generation_prompt)
            except _Endless:
                raise
            except DataError:
                continue
            if PROBE in text:
                self.rendered[role] = text
                return
            left_out = True
        self.part_roles = as_text
        if left_out:
            self.left_out |= {role}


def check_kwargs(kwargs: Mapping[str, Any], source: str | None) -> None:
    """Raise ConfigError for a variable that the template does not mention or that is set by the renderer."""
    for name in kwargs:
        if name in _SET_HERE:
            raise ConfigError(f"chat_template_kwargs.{name} is set by selfplay", "Remove it.")
        if source is None or not re.search(rf"\b{re.escape(name)}\b", source):
            raise ConfigError(
                f"chat_template_kwargs.{name} does nothing: the chat template does not mention {name!r}",
                "Remove it, or check its spelling against the template.",
            )


def _line(error: BaseException) -> str:
    """Where in the template an error was raised, as " in line N"; nothing where no line is known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f" in line {lines[-1]}" if lines else ""
