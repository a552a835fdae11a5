"""Signs that the texts of a column are damaged, or that they belong to the conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from selfplay.inputs.rows.dialogues import is_dialogue
from selfplay.inputs.rows.fields import unfolded

Look = Literal["templated", "ended", "listed", "null", "damaged", "prose", "long"]
"""`templated`: a chat template or a form of turns wrote it; `ended`: a control token is at its end; `listed`: a list of texts;
`null`: it says that there is none; `damaged`: it was encoded once too often; `prose`: several words; `long`: no single word."""

# The beginnings of conversations that a chat template wrote, HH's form aside.
_TEMPLATED = re.compile(
    r"\s*(<s>|<bos>|<\|begin_of_text\|>)?\s*(<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(system|user|assistant)\|>"
    r"|\[INST\]|\n\n(Human|Assistant): ?|(Human|User|USER|### ?(Human|User|Instruction)): .*\n(Assistant|ASSISTANT"
    r"|### ?(Assistant|Response)):)|.*<extra_id_1>(User|Assistant)",
    re.DOTALL,
)
_TURN_OF_ASSISTANT = re.compile(r"\s*(Assistant|ASSISTANT|### ?(Assistant|Response)): ?\S")
_ENDED = re.compile(r"(</s>|<eos>|<end_of_turn>|\[/?INST\]|<\|[a-zA-Z_]{2,30}\|>)\s*$")
# What Python, pandas, NumPy and JSON print of a missing value.
_NULLS = ("None", "nan", "NaN", "null", "<NA>", "NaT")
# Bytes as Python prints them, UTF-8 that was read as Latin-1, entities of HTML.
_DAMAGED = re.compile(
    r"""b(['"]).*\1$|.*([\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac.|&(amp|lt|gt|quot|nbsp|#\d{1,5});)""", re.DOTALL
)
_A_PROSE, _A_WORD = 6, 20
# Of a longer text only the beginning and the end are looked at; of a list, the first entries.
_CHARS, _ENTRIES, _DEPTH = 20_000, 8, 6


def looks_of(name: str, value: Any, depth: int = _DEPTH) -> Iterator[tuple[str, Look]]:
    """The looks of the texts in a value, each with the name of the column or field that holds the text. A message's text is the
    column's own."""
    if isinstance(value, str):
        found = unfolded(value)
        if found is not value and isinstance(found, list) and all(isinstance(entry, str) for entry in found):
            yield name, "listed"
        if found is value:
            yield from ((name, look) for look in _of_text(value))
            return
        value = found
    if isinstance(value, list) and depth:
        for entry in value[:_ENTRIES]:
            yield from looks_of(name, entry, depth - 1)
    elif isinstance(value, dict) and depth:
        for key, entry in value.items():
            of_message = key in ("content", "value", "text") and {"role", "from", "type"} & value.keys()
            yield from looks_of(name if of_message else f"{name}.{key}", entry, depth - 1)


def _of_text(text: str) -> Iterator[Look]:
    if text in _NULLS:
        yield "null"
    begin, end = text[:_CHARS], text[-_CHARS:]
    if not is_dialogue(begin) and (_TEMPLATED.match(begin) or _TURN_OF_ASSISTANT.match(begin)):
        yield "templated"
    elif _ENDED.search(end):
        yield "ended"
    if _DAMAGED.match(begin):
        yield "damaged"
    if len(begin.split()) >= _A_PROSE:
        yield "prose"
    if len(begin) > _A_WORD or " " in begin:
        yield "long"
