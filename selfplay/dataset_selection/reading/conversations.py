"""The forms that preference pairs come in, read as messages: a prompt that ends in a user turn, and one assistant turn each
for chosen and rejected.

Forms: plain texts; lists of messages (role/content, or from/value as ShareGPT has them), of the answer alone or of the
whole dialogue with the prompt in front of it (UltraFeedback-binarized, or no prompt column at all: TRL's implicit prompt);
and dialogues as one text ("\n\nHuman: ...\n\nAssistant: ...", as in HH). Departs from TRL in one thing: dialogues that differ
before their last turn are refused, where TRL's implicit prompt would make several turns, user turns among them, the
completion.
"""

from __future__ import annotations

import re
from typing import Any

from selfplay.core.records import Message
from selfplay.dataset_selection.reading.dataset import BadValue
from selfplay.dataset_selection.reading.values import text

Messages = list[Message]

SEVERAL = "several_texts"

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
}
# Fields that make a message more than its text.
_MEANINGFUL = ("tool_calls", "tool_call_id", "function_call", "images", "audio", "prefix")
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_pair(
    values: dict[str, Any], prompt: str | None, chosen: str, rejected: str, *, system: str | None, added: str | None
) -> tuple[Messages, Messages, Messages]:
    """Prompt, chosen and rejected of a row, by the names of its columns. `prompt` is None where the dialogues carry it;
    `added` is the column of the text below an instruction, `system` that of the system prompt. Raises BadValue."""
    answers = [_answer(_value(values, name), f"column {name!r}") for name in (chosen, rejected)]
    given = None if prompt is None else read_prompt(values, prompt, system=system, added=added)
    contexts = []
    for name, answer in zip((chosen, rejected), answers, strict=True):
        if answer[-1]["role"] != "assistant":
            raise BadValue("no_assistant_turn", f"column {name!r} ends in a turn of the {answer[-1]['role']}")
        context = answer[:-1]
        if given is None and not context:
            raise BadValue("no_prompt", f"column {name!r} is an answer alone, and there is no prompt column")
        contexts.append(_in_front(given, context, f"column {name!r}") if given is not None else context)
    if contexts[0] != contexts[1]:
        raise BadValue("differs_before_last_turn", f"{chosen!r} and {rejected!r} differ before their last turn")
    return _checked_prompt(contexts[0], "the prompt"), [answers[0][-1]], [answers[1][-1]]


def read_prompt(values: dict[str, Any], prompt: str, *, system: str | None, added: str | None) -> Messages:
    """The messages of a row's prompt column (text, dialogue as one text, or messages). Raises BadValue."""
    value, name = _value(values, prompt), f"column {prompt!r}"
    if isinstance(value, str):
        content = text(value, name)
        turns = _dialogue(content) if is_dialogue(content) else None
        if turns is not None:
            if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
                turns = turns[:-1]  # "...\n\nAssistant:" where the answer goes
            messages = [_said(turn, name) for turn in turns]
        else:
            more = values.get(added) if added is not None else None
            if more is not None and (not isinstance(more, str) or not more.isspace()) and more != "":
                content = f"{content}\n{text(more, f'column {added!r}')}"
            messages = [{"role": "user", "content": content}]
    else:
        messages = read_messages(value, name)
    before = values.get(system) if system is not None else None
    if before is not None and before != "" and (not messages or messages[0]["role"] != "system"):
        messages = [{"role": "system", "content": text(before, f"column {system!r}")}, *messages]
    return _checked_prompt(messages, name)


def read_messages(value: Any, name: str) -> Messages:
    """A list of chat messages. Raises BadValue."""
    if value is None:
        raise BadValue("null_value", f"{name} is null")
    if not isinstance(value, list):
        raise BadValue("not_messages", f"{name} is neither text nor a list of messages but {type(value).__name__}")
    if not value:
        raise BadValue("empty_text", f"{name} has no messages")
    messages = [_message(entry, f"message {number} of {name}") for number, entry in enumerate(value, 1)]
    if any(message["role"] == "system" for message in messages[1:]):
        raise BadValue("late_system_turn", f"{name} has a system message that is not its first")
    return messages


def read_response(value: Any, name: str) -> str:
    """The text of one response: a text, or a list of one assistant message. Raises BadValue."""
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        raise BadValue(SEVERAL, f"{name} holds {len(value)} texts, not one")
    if isinstance(value, list | dict):
        messages = read_messages([value] if isinstance(value, dict) else value, name)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadValue("not_one_answer", f"{name} is not one assistant message")
        return messages[0]["content"]
    return text(value, name)


def is_dialogue(content: str) -> bool:
    """Whether a text is a dialogue in HH's form."""
    return content.lstrip().startswith("Human:") and "\n\nAssistant:" in content


def _value(values: dict[str, Any], name: str) -> Any:
    if name not in values:
        raise BadValue("no_column", f"no column {name!r}")
    return values[name]


def _answer(value: Any, name: str) -> Messages:
    """What a chosen or rejected column holds, as messages: at least one."""
    if isinstance(value, str):
        content = text(value, name)
        if not is_dialogue(content):
            return [{"role": "assistant", "content": content}]
        return [_said(turn, name) for turn in _dialogue(content)]
    return read_messages([value] if isinstance(value, dict) else value, name)


def _dialogue(content: str) -> Messages:
    """The turns of a dialogue in HH's form, their texts stripped. Two turns of one speaker in a row are one turn, as
    chat templates want it."""
    parts = _TURN.split(content.strip())
    turns: Messages = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{said.strip()}".strip()}
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns


def _said(turn: Message, name: str) -> Message:
    text(turn["content"], f"a turn of the {turn['role']} in {name}")
    return turn


def _message(entry: Any, name: str) -> Message:
    if not isinstance(entry, dict):
        raise BadValue("not_messages", f"{name} is no object with role and content")
    role_key, content_key = ("from", "value") if "from" in entry and "role" not in entry else ("role", "content")
    role = entry.get(role_key)
    if not isinstance(role, str) or content_key not in entry:
        raise BadValue("not_messages", f"{name} is no object with role and content")
    if role.lower() not in _ROLES:
        raise BadValue("unknown_role", f"{name} is of the role {role[:40]!r}; roles are system, user, assistant")
    for key in _MEANINGFUL if len(entry) > 2 else ():
        if entry.get(key):
            raise BadValue("more_than_text", f"{name} has {key!r}: only text messages are read")
    return {"role": _ROLES[role.lower()], "content": text(entry[content_key], f"the content of {name}")}


def _in_front(given: Messages, context: Messages, name: str) -> Messages:
    """The prompt of a row that has a prompt column, where chosen or rejected may hold the dialogue so far too."""
    if not context:
        return given
    if context == given:
        return given
    # The system message may stand in one of the two only.
    bare = [[message for message in part if message["role"] != "system"] for part in (given, context)]
    if bare[0] == bare[1]:
        return context if context[0]["role"] == "system" else given
    # UltraFeedback: the prompt column is the first user turn of the dialogue.
    if len(bare[0]) == 1 and any(_same(bare[0][0], message) for message in context):
        return [given[0], *context] if given[0]["role"] == "system" and context[0]["role"] != "system" else context
    raise BadValue("prompt_differs", f"the dialogue in {name} does not contain the prompt of its row")


def _same(first: Message, second: Message) -> bool:
    return first["role"] == second["role"] and first["content"].strip() == second["content"].strip()


def _checked_prompt(messages: Messages, name: str) -> Messages:
    if messages[-1]["role"] != "user":
        raise BadValue(
            "no_user_turn", f"{name} ends in a turn of the {messages[-1]['role']}: a prompt ends in a user turn"
        )
    return messages
