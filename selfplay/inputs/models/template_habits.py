"""What a chat template does to messages, seen on made-up ones: habits that the examples of a run may not show."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence

from selfplay.core.errors import DataError, ModelError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.chat_template import PROBE

# What templates escape, strip, cut or join.
_TEXT = f"{PROBE}: <b class=\"x\">'one' & {{{{two}}}}</b>\n\n  Three, four\\n \u00e9 \u6f22 end"
_QUESTION, _ANSWER = f"{PROBE} asks", f"{PROBE} answers"


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def habits(name: str, renderer: ChatRenderer, *, for_prompts: bool) -> Iterator[str]:
    """Warnings about the template of a renderer; `name` is the setting that names its model. `for_prompts`: it writes prompts.
    Raises ModelError for a template that draws at random, and for one that changes the order of turns. What it refuses is not
    looked at."""
    answer = Message(role="assistant", content=_ANSWER)
    dialogue = [_user(_QUESTION), answer, _user(_TEXT)]
    with contextlib.suppress(DataError):
        yield from _of_texts(name, renderer, dialogue)
    if for_prompts:
        with contextlib.suppress(DataError):
            yield from _of_the_end(name, renderer, [_user(_QUESTION)], answer)


def _of_texts(name: str, renderer: ChatRenderer, dialogue: Sequence[Message]) -> Iterator[str]:
    written = renderer.written(dialogue, True)
    if renderer.written(dialogue, True) != written:
        raise ModelError(
            f"{name}: the chat template writes the same messages in different ways",
            "Give a template without random choices: a prompt is rendered again by later stages and by a resume.",
        )
    places = [written.find(message["content"]) for message in dialogue]
    if -1 not in places and places != sorted(places):
        raise ModelError(
            f"{name}: the chat template writes the turns of a conversation in another order",
            "Correct the template, or give another chat_template.",
        )
    if any(written.count(message["content"]) > 1 for message in dialogue):
        yield f"{name}: the chat template writes a message several times"
    if places[-1] < 0 <= places[0]:
        yield (
            f"{name}: the chat template changes texts, as a message with quotes, marks and line breaks shows: it writes "
            f"{written.rpartition(_ANSWER)[2][:200]!r}"
        )
    if "strftime_now" in renderer.template_source and str(datetime.datetime.now().year) in written:
        way = "; chat_template_kwargs.date_string fixes the day" if "date_string" in renderer.template_source else ""
        yield f"{name}: the chat template writes today's date, so that later rounds and resumes have other prompts{way}"


def _of_the_end(name: str, renderer: ChatRenderer, asked: list[Message], answer: Message) -> Iterator[str]:
    prompt, whole = renderer.written(asked, True), renderer.written([*asked, answer], False)
    if prompt != renderer.written(asked, False) or not whole.startswith(prompt):
        return
    beginning = whole[len(prompt) : whole.find(answer["content"])].strip()
    if beginning:
        yield (
            f"{name}: a prompt does not end where the answer begins: the chat template leaves out {beginning!r} (it does not use "
            "add_generation_prompt)"
        )
