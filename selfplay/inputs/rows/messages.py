"""The forms in which rows hold conversations, read as messages.

Forms: plain texts; lists of messages (role/content, or from/value as in ShareGPT), of the answer alone or of the whole
dialogue with the prompt in front of it; both also as JSON text or as pandas prints them; and dialogues as one text
("\\n\\nHuman: ...\\n\\nAssistant: ...", as in HH). One departure from TRL: dialogues that differ before their last turn are
refused, where TRL's implicit prompt would make several turns, user turns among them, the completion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from selfplay.core.records import Message
from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.values import parsed_text, text

Messages = list[Message]

SEVERAL = "several_texts"

_ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatbot", "bot"), "assistant"),
}
# Fields that make a message more than its text.
_MEANINGFUL = (
    "tool_calls", "tool_call_id", "function_call", "tools", "images", "audio", "videos", "documents", "prefix",
    "reasoning_content", "thinking",
)  # fmt: skip
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_LIKE_MESSAGES = re.compile(r"""\s*(\[\s*)?\{\s*['"](role|from|content|value)['"]\s*:""")
_KEYS = ({"role", "content"}, {"from", "value"})


def read_pair(
    values: Mapping[str, Any],
    prompt: str | None,
    chosen: str,
    rejected: str,
    *,
    system: str | None = None,
    added: str | None = None,
) -> tuple[Messages, Messages, Messages]:
    """Prompt, chosen and rejected of a row, by the names of its columns. `prompt` is None where the dialogues contain
    it; `added` is the column of the text below an instruction, `system` that of the system prompt. Raises BadValue."""
    found = [_unserialised(_value(values, name), f"column {name!r}") for name in (chosen, rejected)]
    was_text = any(
        isinstance(values[name], str) and value is not values[name]
        for name, value in zip((chosen, rejected), found, strict=True)
    )
    if was_text and any(isinstance(value, str) for value in found):
        raise BadValue(
            "serialised_messages", f"one of {chosen!r} and {rejected!r} holds messages as text, the other plain text"
        )
    answers = [_answer(value, f"column {name!r}") for name, value in zip((chosen, rejected), found, strict=True)]
    given = None if prompt is None else read_prompt(values, prompt, system=system, added=added)[0]
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
    messages = _with_system(contexts[0], values, system)
    return _checked_prompt(messages, "the prompt"), [answers[0][-1]], [answers[1][-1]]


def read_prompt(
    values: Mapping[str, Any], prompt: str, *, system: str | None = None, added: str | None = None
) -> tuple[Messages, bool]:
    """The messages of a row's prompt column (text, dialogue as one text, or messages), and whether it is plain text.
    The columns are those of `read_pair`. Raises BadValue."""
    name = f"column {prompt!r}"
    value = _unserialised(_value(values, prompt), name)
    is_plain = isinstance(value, str) and not is_dialogue(value)
    if is_plain:
        content = text(value, name)
        more = values.get(added) if added is not None else None
        if more is not None and (not isinstance(more, str) or not more.isspace()) and more != "":
            content = f"{content}\n{text(more, f'column {added!r}')}"
        messages: Messages = [{"role": "user", "content": content}]
    elif isinstance(value, str):
        messages = _dialogue(text(value, name))
        if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
            messages = messages[:-1]  # "...\n\nAssistant:" where the answer goes
        messages = [_said(turn, name) for turn in messages]
    else:
        messages = read_messages(value, name)
    return _checked_prompt(_with_system(messages, values, system), name), is_plain


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
    """The text of one response: a text, or one assistant message. Raises BadValue."""
    value = _unserialised(value, name)
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


def _unserialised(value: Any, name: str) -> Any:
    """The messages that a text holds (JSON, or as Python prints them); any other value as it is. Raises BadValue for a
    text that begins like messages and cannot be parsed exactly."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    parsed = parsed_text(value)
    entries = parsed if isinstance(parsed, list) else [parsed]
    if entries and all(isinstance(entry, dict) and any(keys <= entry.keys() for keys in _KEYS) for entry in entries):
        return parsed
    if parsed is value and _LIKE_MESSAGES.match(value):
        raise BadValue("serialised_messages", f"{name} looks like messages as text, but is not valid JSON")
    return value


def _value(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise BadValue("no_column", f"no column {name!r}")
    return values[name]


def _answer(value: Any, name: str) -> Messages:
    """The messages of a chosen or rejected column: at least one."""
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
        raise BadValue("not_messages", f"{name} is not an object with role and content")
    role_key, content_key = ("from", "value") if "from" in entry and "role" not in entry else ("role", "content")
    role = entry.get(role_key)
    if not isinstance(role, str) or content_key not in entry:
        raise BadValue("not_messages", f"{name} is not an object with role and content")
    if role.lower() not in _ROLES:
        raise BadValue("unknown_role", f"{name} has the role {role[:40]!r}; roles are system, user, assistant")
    for key in _MEANINGFUL if len(entry) > 2 else ():
        if entry.get(key):
            raise BadValue("more_than_text", f"{name} has {key!r}: only text messages are read")
    return {"role": _ROLES[role.lower()], "content": text(_joined(entry[content_key]), f"the content of {name}")}


def _joined(content: Any) -> Any:
    """The text of a list of text parts ([{"type": "text", "text": ...}]); any other content as it is."""
    if isinstance(content, list) and content:
        parts = [
            part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text" and "text" in part
        ]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "".join(parts)
    return content


def _with_system(messages: Messages, values: Mapping[str, Any], system: str | None) -> Messages:
    """The messages with the system prompt of the row's column in front. Raises BadValue for two different ones."""
    given = values.get(system) if system is not None else None
    if given is None or given == "":
        return messages
    content = text(given, f"column {system!r}")
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"].strip() != content.strip():
            raise BadValue("two_system_prompts", f"column {system!r} differs from the dialogue's own system message")
        return messages
    return [{"role": "system", "content": content}, *messages]


def _in_front(given: Messages, context: Messages, name: str) -> Messages:
    """The prompt of a row that has a prompt column, where chosen or rejected may hold the dialogue so far too."""
    if not context or context == given:
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
    if not messages or messages[-1]["role"] != "user":
        role = messages[-1]["role"] if messages else "system"
        raise BadValue("no_user_turn", f"{name} ends in a turn of the {role}: a prompt ends in a user turn")
    return messages
