"""Rows of pairs with several chosen or several rejected answers (RewardBench 2): each chosen with each rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.fields import value_at
from selfplay.inputs.rows.messages import SEVERAL
from selfplay.inputs.rows.roles import SIDES


def each_pair(values: Mapping[str, Any], names: Mapping[str, str], *, numbered: bool) -> list[Mapping[str, Any]]:
    """A row as rows of one chosen and one rejected answer each; a row of one pair as it is. `names`: role -> column or field.
    Raises BadValue for several pairs of a row that has numbers of one (`numbered`), and for a text on both sides: lists of turns
    have their questions in common."""
    answers = [_answers(value_at(values, names[side])) for side in SIDES]
    # a list of questions goes with lists of their answers: turns of one conversation
    has_turns = "prompt" in names and _is_list_of(str, value_at(values, names["prompt"]))
    if has_turns or all(len(one) == 1 for one in answers):
        return [values]
    if any(one in answers[1] for one in answers[0]):
        raise BadValue(
            SEVERAL, f"{names['chosen']!r} and {names['rejected']!r} have a text in common: they may be turns"
        )
    if numbered:
        counts = " and ".join(f"{len(one)} in {names[side]!r}" for side, one in zip(SIDES, answers, strict=True))
        raise BadValue(SEVERAL, f"{counts}: the numbers of the row do not say which pair they are of")
    return [
        {**values, **{names[side]: one for side, one in zip(SIDES, pair, strict=True)}} for pair in product(*answers)
    ]


def _answers(value: Any) -> list[Any]:
    """The answers of a list of texts or of dialogues; any other value is one answer."""
    return value if (_is_list_of(str, value) or _is_list_of(list, value)) and len(value) > 1 else [value]


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)
