"""Dialogues as one text, in the form of HH: "\\n\\nHuman: ...\\n\\nAssistant: ..."."""

from __future__ import annotations

import re

from selfplay.core.records import Message

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def is_dialogue(content: str) -> bool:
    """Whether a text is a dialogue in HH's form."""
    return content.lstrip().startswith("Human:") and "\n\nAssistant:" in content


def dialogue_turns(content: str) -> list[Message]:
    """The turns of such a dialogue, their texts stripped (the last one may be empty: "...\\n\\nAssistant:"). Two turns of one
    speaker in a row are one turn, as chat templates want it."""
    parts = _TURN.split(content.strip())
    turns: list[Message] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{said.strip()}".strip()}
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns
