"""The forms in which rows hold conversations, read as messages.

Forms: plain texts; lists of messages (role/content, or from/value as in ShareGPT), of the answer alone or of the whole
dialogue with the prompt in front of it; both also as JSON text or as pandas prints them; and dialogues as one text
("\\n\\nHuman: ...\\n\\nAssistant: ...", as in HH). One departure from TRL: dialogues that differ before their last turn are
refused, where TRL's implicit prompt would make several turns, user turns among them, the completion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfplay.core.records import Message
from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.dialogues import dialogue_turns, is_dialogue
from selfplay.inputs.rows.fields import is_serialised, optional_at, unfolded, value_at
from selfplay.inputs.rows.values import text

Messages = list[Message]

SEVERAL, NO_PROMPT, SERIALISED = "several_texts", "no_prompt", "serialised_messages"

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
# Messages that another program printed: objects with these keys (DuckDB, Trino, escaped JSON), the form of a class
# (`Message(role='user', content=...)`), or objects without keys (Spark: `[{user, ...}]`); and what was cut off.
_LIKE_MESSAGES = re.compile(
    r"""\s*(array\()?\[?\s*\{(?=.*\b(role|from)(\\*['"]|&quot;)?\s*[:=])(?=.*\b(content|value)(\\*['"]|&quot;)?\s*[:=])"""
    r"|\s*\[?\s*\w+\((?=.*\brole=)(?=.*\bcontent=)"
    r"|\s*\[\s*\{\s*(system|user|human|assistant|gpt)\s*,"
    r"""|\s*\[\s*\{\s*\\*['"](role|from)\\*['"]\s*:(?!.*\]\s*$)""",
    re.DOTALL,
)
_KEYS = ({"role", "content"}, {"from", "value"})


def read_pair(values: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Messages, Messages, Messages]:
    """Prompt, chosen and rejected of a row. `names`: role -> column or field, with `chosen`, `rejected`, and `prompt` where the
    dialogues do not contain it; see `read_prompt` for what else is used. Raises BadValue."""
    given = [value_at(values, names[side]) for side in ("chosen", "rejected")]
    called = [f"column {names[side]!r}" for side in ("chosen", "rejected")]
    found = [_unserialised(value, name) for value, name in zip(given, called, strict=True)]
    is_text = [isinstance(value, str) for value in (*given, *found)]
    if "prompt" in names and is_text[:2] == [True, True] and is_text[2] != is_text[3]:
        raise BadValue(SERIALISED, f"one of {called[0]} and {called[1]} holds messages as text, the other plain text")
    asked = value_at(values, names["prompt"]) if "prompt" in names else None
    if (questions := _texts(asked)) is not None:
        found = [_interleaved(questions, asked, value, name) for value, name in zip(found, called, strict=True)]
        names = {ours: theirs for ours, theirs in names.items() if ours != "prompt"}
    answers = [read_answer(value, name) for value, name in zip(found, called, strict=True)]
    chosen, rejected = (_assistant(answer) for _, answer in answers)
    return read_context(values, names, answers, called), [chosen], [rejected]


def read_context(
    values: Mapping[str, Any], names: Mapping[str, str], answers: Sequence[tuple[Messages, str]], called: Sequence[str]
) -> Messages:
    """The prompt of a row: its prompt column, where there is one, and the turns before its answers (see `read_answer`), which
    must be equal; an answer that stands alone goes with the turns of the others. Raises BadValue."""
    turns = [(context, name) for (context, _), name in zip(answers, called, strict=True)]
    if "prompt" in names:
        given, _ = read_prompt(values, names)
        turns = [(_in_front(given, context, name), name) for context, name in turns]
    else:
        turns = [(_with_history(context, values, names), name) for context, name in turns if context]
    if not turns:
        raise BadValue(NO_PROMPT, f"{called[0]} is an answer alone, and there is no prompt column")
    prompt, first = turns[0]
    for other, name in turns[1:]:
        if other != prompt:
            raise BadValue("differs_before_last_turn", f"{first} and {name} differ before their last turn")
    return _checked_prompt(_with_system(prompt, values, names), "the prompt")


def read_prompt(values: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Messages, bool]:
    """The messages of a row's prompt (text, dialogue as one text, or messages), and whether it is plain text. `names`: role ->
    column or field: `prompt`; `input`, the text below an instruction; `history`, the turns before it; `system`. Raises
    BadValue."""
    name = f"column {names['prompt']!r}"
    given = value_at(values, names["prompt"])
    value = _unserialised(given, name)
    if isinstance(given, str) and _texts(given) is not None:
        raise BadValue(SERIALISED, f"{name} looks like a list of texts as JSON")
    is_plain = isinstance(value, str) and not is_dialogue(value)
    if is_plain:
        content = text(value, name)
        more, called = _beside(values, names, "input")
        if more is not None and (not isinstance(more, str) or not more.isspace()) and more != "":
            content = f"{content}\n{text(more, called)}"
        messages: Messages = [{"role": "user", "content": content}]
    elif isinstance(value, str):
        messages = dialogue_turns(text(value, name))
        if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
            messages = messages[:-1]  # "...\n\nAssistant:" where the answer goes
        messages = [_said(turn, name) for turn in messages]
    else:
        messages = read_messages([value] if _is_message(value) else value, name)
    messages = _with_history(messages, values, names)
    return _checked_prompt(_with_system(messages, values, names), name), is_plain


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


def read_answer(value: Any, name: str) -> tuple[Messages, str]:
    """An answer: the turns before it (none where it stands alone) and its text. It is a text, an assistant message, or a
    dialogue that ends in one, as messages or as one text. Raises BadValue."""
    value = _unserialised(value, name)
    if isinstance(value, str):
        content = text(value, name)
        if not is_dialogue(content):
            return [], content
        messages = [_said(turn, name) for turn in dialogue_turns(content)]
    else:
        if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
            if len(value) > 1:
                raise BadValue(SEVERAL, f"{name} holds {len(value)} texts, not one")
            return [], text(value[0], name)
        messages = read_messages([value] if isinstance(value, dict) else value, name)
    if messages[-1]["role"] != "assistant":
        raise BadValue("no_assistant_turn", f"{name} ends in a turn of the {messages[-1]['role']}")
    return messages[:-1], messages[-1]["content"]


def _unserialised(value: Any, name: str) -> Any:
    """The messages that a text holds (JSON, or as Python prints them); any other value as it is. Raises BadValue for a
    text that begins like messages and cannot be parsed exactly."""
    parsed = unfolded(value)
    if not isinstance(value, str) or (not is_serialised(value) and not _LIKE_MESSAGES.match(value)):
        return parsed
    entries = parsed if isinstance(parsed, list) else [parsed]
    if entries and all(map(_is_message, entries)):
        return parsed
    if parsed is value and _LIKE_MESSAGES.match(value):
        raise BadValue(SERIALISED, f"{name} looks like messages as text, but cannot be parsed exactly")
    if parsed is not value and (_holds_messages(parsed) or _are_turns(parsed)):
        raise BadValue(
            SERIALISED, f"{name} has messages inside of {type(parsed).__name__} as text: name the field as COLUMN.FIELD"
        )
    return value


def _holds_messages(value: Any) -> bool:
    """Whether lists or objects have messages somewhere inside."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_message(entry) or _holds_messages(entry) for entry in inside)


def _are_turns(value: Any) -> bool:
    """Whether a list has pairs of a role and a text."""
    return (
        isinstance(value, list)
        and all(
            isinstance(entry, list | tuple) and len(entry) == 2 and str(entry[0]).lower() in _ROLES for entry in value
        )
        and bool(value)
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and any(keys <= value.keys() for keys in _KEYS)


def _texts(value: Any) -> list[Any] | None:
    """A list of texts, or the one that a text holds; None for another value."""
    found = unfolded(value)
    return found if isinstance(found, list) and found and all(isinstance(entry, str) for entry in found) else None


def _interleaved(questions: list[Any], asked: Any, value: Any, name: str) -> Any:
    """The dialogue of a list of questions and the list of their answers, as in the 55k comparisons of the Chatbot Arena. `asked`
    is the questions as the row holds them."""
    answers = unfolded(value)
    if not isinstance(answers, list) or len(answers) != len(questions) or any(isinstance(a, dict) for a in answers):
        reason = SERIALISED if isinstance(asked, str) else "not_messages"
        raise BadValue(reason, f"the prompt is a list of {len(questions)} texts, {name} is not such a list")
    turns: list[dict[str, Any]] = []
    for question, answer in zip(questions, answers, strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns


def _beside(values: Mapping[str, Any], names: Mapping[str, str], ours: str) -> tuple[Any, str]:
    """The value of a column that stands beside the prompt, None where the row has none, and what messages call it."""
    theirs = names.get(ours)
    return optional_at(values, theirs), f"column {theirs!r}"


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


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


def _with_history(messages: Messages, values: Mapping[str, Any], names: Mapping[str, str]) -> Messages:
    """The messages with the turns of the row's history in front: a list of [question, answer], as in LLaMA-Factory. Raises
    BadValue."""
    given, name = _beside(values, names, "history")
    history = unfolded(given)
    if history is None or history == "" or history == []:
        return messages
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise BadValue("not_messages", f"{name} is not a list of [question, answer]")
    turns: Messages = [
        {"role": role, "content": text(said, f"a turn in {name}")}
        for turn in history
        for role, said in zip(("user", "assistant"), turn, strict=True)
    ]
    start = 1 if messages and messages[0]["role"] == "system" else 0
    return [*messages[:start], *turns, *messages[start:]]


def _with_system(messages: Messages, values: Mapping[str, Any], names: Mapping[str, str]) -> Messages:
    """The messages with the system prompt of the row's column in front. Raises BadValue for two different ones."""
    given, name = _beside(values, names, "system")
    if given is None or given == "":
        return messages
    content = text(given, name)
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"].strip() != content.strip():
            raise BadValue("two_system_prompts", f"{name} differs from the dialogue's own system message")
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
