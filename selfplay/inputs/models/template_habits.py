"""What a chat template does to messages, seen on made-up ones: habits that the examples of a run may not show."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Collection, Iterator, Sequence

from selfplay.core.errors import DataError, ModelError
from selfplay.core.records import Message
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.chat_template import PROBE

# What templates escape, strip, cut or join.
_TEXT = f"{PROBE}: <b class=\"x\">'one' & {{{{two}}}}</b>\n\n  Three, four\\n \u00e9 \u6f22 end"
_QUESTION, _ANSWER, _NEXT = f"{PROBE} asks", f"{PROBE} answers", f"{PROBE} asks again"
_LONG_CHARS = 60_000
# What templates call who speaks.
_NAMES = {"user": ("user", "human", "question"), "assistant": ("assistant", "model", "gpt", "bot", "chatbot", "answer")}


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def habits(name: str, renderer: ChatRenderer, *, for_prompts: bool) -> Iterator[str]:
    """Warnings about the template of a renderer; `name` is the setting that names its model. `for_prompts`: it writes prompts.
    Raises ModelError for a template that draws at random, that changes the order of turns, or that exchanges the roles. What it
    refuses is not looked at."""
    answer = Message(role="assistant", content=_ANSWER)
    dialogue = [_user(_QUESTION), answer, _user(_TEXT)]
    with contextlib.suppress(DataError):
        yield from _of_texts(name, renderer, dialogue)
    with contextlib.suppress(DataError):
        yield from _of_long_texts(name, renderer)
    with contextlib.suppress(DataError):
        yield from _of_roles(name, renderer)
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


def _of_long_texts(name: str, renderer: ChatRenderer) -> Iterator[str]:
    """Which messages the template writes while they are short, and not while they are long."""
    short = [_user(_QUESTION), Message(role="assistant", content=_ANSWER)]
    # one word many times: what a template does to marks and spaces is said elsewhere
    long = [Message(role=one["role"], content=PROBE * (_LONG_CHARS // len(PROBE))) for one in short]
    written, as_long = renderer.written(short, False), renderer.written(long, False)
    if all(one["content"] in written for one in short) and as_long.count(long[0]["content"]) < len(long):
        yield f"{name}: the chat template cuts long messages, as messages of {_LONG_CHARS:,} characters show"


def _of_roles(name: str, renderer: ChatRenderer) -> Iterator[str]:
    """Whether the template says who speaks: by what it writes between a question and its answer, and before the next question."""
    dialogue = [_user(_QUESTION), Message(role="assistant", content=_ANSWER), _user(_NEXT)]
    written = renderer.written(dialogue, False)
    places = [written.find(message["content"]) for message in dialogue]
    if -1 in places:
        return
    to_answer = written[places[0] + len(_QUESTION) : places[1]]
    to_question = written[places[1] + len(_ANSWER) : places[2]]
    if to_answer.strip() == to_question.strip():
        yield f"{name}: the chat template does not mark who speaks: it writes {to_answer!r} between all turns"
    if _speaker(to_answer) == "user" and _speaker(to_question) == "assistant":
        raise ModelError(
            f"{name}: the chat template exchanges the roles: it writes {to_answer!r} before an answer and {to_question!r} "
            "before a question",
            "Correct the template, or give another chat_template.",
        )


def refuse_lost_marks(name: str, renderer: ChatRenderer) -> None:
    """Raise ModelError where the tokenizer makes ordinary text of the control tokens that the template writes."""
    asked = [_user(_QUESTION)]
    try:
        text, ids = renderer.written(asked, True), renderer.prompt(asked)
    except DataError:  # it refuses a user's message alone
        return
    if lost := set(renderer.control.found_in(text)) - set(ids):
        mark = renderer.tokenizer.convert_ids_to_tokens(min(lost))
        raise ModelError(
            f"{name}: the chat template writes {mark!r}, which is a control token, but the tokenizer makes ordinary text of it",
            "Compare split_special_tokens in tokenizer_config.json (it must be false), and single_word of the added tokens.",
        )


def _speaker(written: str) -> str | None:
    """Whose turn begins after a text of the template, by the last word in it that names a role."""
    words = [role for word in re.findall(r"[a-z]+", written.lower()) for role, names in _NAMES.items() if word in names]
    return words[-1] if words else None


def _of_the_end(name: str, renderer: ChatRenderer, asked: list[Message], answer: Message) -> Iterator[str]:
    prompt, whole = renderer.written(asked, True), renderer.written([*asked, answer], False)
    question = asked[-1]["content"]
    ends = prompt.rpartition(question)[2]
    begins = whole.rpartition(question)[2].partition(answer["content"])[0]
    if ends == renderer.written(asked, False).rpartition(question)[2]:
        if begins.startswith(ends) and begins[len(ends) :].strip():
            yield (
                f"{name}: a prompt does not end where the answer begins: the chat template leaves out "
                f"{begins[len(ends) :].strip()!r} (it does not use add_generation_prompt)"
            )
        return
    # thoughts that a prompt opens are closed, or left out, in a turn of a dialogue
    ends, begins = (_before_thoughts(text, renderer.thinking.marks).strip() for text in (ends, begins))
    if not ends.startswith(begins) and not begins.startswith(ends):
        yield f"{name}: a prompt ends with {ends!r}, but the chat template begins an answer in a dialogue with {begins!r}"


def _before_thoughts(text: str, marks: Collection[str]) -> str:
    return text[: min((text.find(mark) for mark in marks if mark in text), default=len(text))]
