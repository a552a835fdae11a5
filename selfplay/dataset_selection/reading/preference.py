"""Which of two responses a row prefers: by a column that names the better one, by one whose sign says it, or by rewards.

What a column means is decided by all its values, once for the source, and said. Values with two meanings are refused: 0 and 1
name `response_0` and `response_1`, but not `response_a` and `response_b`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfplay.core.errors import DataError
from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.columns import Columns
from selfplay.inputs.rows.fields import value_at
from selfplay.inputs.rows.names import plain
from selfplay.inputs.rows.roles import LETTERS, SIDES
from selfplay.inputs.rows.source import Source
from selfplay.inputs.rows.values import number

_TIES = frozenset(("tie", "tie_(bothbad)", "bothbad", "both_bad", "both", "equal", "same", "neither", "draw", "none"))
_ORDINALS = (("first", "second"), ("left", "right"))
TIE = "tie"
_MOST_VALUES = 10_000


@dataclass(frozen=True, slots=True)
class Preference:
    """How the rows of a source say which response is better. `column` is None where the rewards say it.
    `names_of_sides`: role -> column of a row whose response a is chosen, and of one whose response b is. `renamed`: for both, the
    other columns of one response -> their names with `chosen` or `rejected` in the label's place."""

    column: str | None
    reads: Literal["labels", "sign", "rewards"]
    names_of_sides: tuple[Mapping[str, str], Mapping[str, str]]
    labels: Mapping[Any, int]
    renamed: tuple[Mapping[str, str], Mapping[str, str]]

    def side(self, values: Mapping[str, Any]) -> int:
        """0 where response a is better, 1 where b is. Raises BadValue for a tie and for a value that says neither."""
        if self.column is None:
            columns = [self.names_of_sides[0][f"reward_{side}"] for side in SIDES]
            first, second = (_number(value_at(values, name), name) for name in columns)
            if first == second:
                raise BadValue(TIE, f"columns {columns[0]!r} and {columns[1]!r} are equal")
            return 0 if first > second else 1
        value, name = value_at(values, self.column), f"column {self.column!r}"
        if self.reads == "sign":
            found = _number(value, self.column)
            if found == 0:
                raise BadValue(TIE, f"{name} is 0")
            return 0 if found < 0 else 1
        key = _key(value)
        if key is None:
            raise BadValue("null_value", f"{name} is null")
        if key in _TIES:
            raise BadValue(TIE, f"{name} is {str(value)!r}")
        if key not in self.labels:
            raise BadValue(
                "unknown_preference", f"{name} is {str(value)[:40]!r}, which names neither of the two responses"
            )
        return self.labels[key]


def find_preference(source: Source, columns: Columns, notes: list[str]) -> Preference:
    """The preference of a source of choices; reads the values of its column. What was assumed goes to `notes`. Raises DataError
    where the values do not say which response they mean."""
    names = columns.names
    sides = tuple(_of_side(columns, at) for at in (0, 1))
    both = (sides[0], sides[1])
    renamed = tuple(_renamed(columns, at) for at in (0, 1))
    called = (renamed[0], renamed[1])
    column = names.get("preference", names.get("preference_strength"))
    first, second = names["response_a"], names["response_b"]
    if column is None:
        notes.append(f"the response with the greater reward is chosen: {names['reward_a']!r} or {names['reward_b']!r}")
        return Preference(None, "rewards", both, {}, called)
    values = _values(source, column)
    numbers = [value for value in values if isinstance(value, float)]
    if "preference" not in names or (numbers and len(numbers) == len(values) and _is_signed(columns, column, numbers)):
        if numbers and min(numbers) >= 0 < max(numbers) and "preference_strength" not in columns.named:
            raise DataError(
                f"{source.name}: no number in column {column!r} is below 0 (they go from {min(numbers):g} to {max(numbers):g}): "
                f"by their sign {first!r} would never be better",
                f"If so, give --columns preference_strength={column}. If the numbers are a scale, subtract its middle; if "
                "they are the size of the preference, name the column that says which response is better (preference=COLUMN).",
            )
        notes.append(f"{column!r} below 0 means that {first!r} is better, above 0 {second!r}, and 0 is a tie")
        return Preference(column, "sign", both, {}, called)
    labels = _labels(columns, numbers)
    unknown = [value for value in values if value not in labels and value not in _TIES]
    told = [value for value in values if value not in unknown and value not in _TIES]
    # 0 and 1 beside `response_1` and `response_2` are counted from another number, as long as no 2 is there
    by_number = {float(label) for label in columns.labels if label.isdecimal()}
    shifted = bool(by_number - {*numbers}) and any(isinstance(value, float) for value in unknown)
    if unknown and (not told or shifted or (numbers and min(numbers) < 0)):
        shown = ", ".join(f"{value:g}" if isinstance(value, float) else repr(value) for value in unknown[:5])
        raise DataError(
            f"{source.name}: it is not clear whether {shown} in column {column!r} mean {first!r}, {second!r} or a tie",
            "Write the label of the better response (as in the name of its column) or `tie` into the column; or, if the sign "
            f"says it (below 0: {first!r} is better), use --columns preference_strength={column}.",
        )
    said = [
        f"{key:g} is {(first, second)[at]!r}" for key, at in labels.items() if isinstance(key, float) and key in numbers
    ]
    notes += [f"in {column!r}, {' and '.join(said)}"] if said else []
    return Preference(column, "labels", both, labels, called)


def _values(source: Source, column: str) -> list[Any]:
    """The different values of a column, as keys; null and what is no key are left out."""
    found: dict[Any, None] = {}
    for row in source.rows():
        try:
            value = None if row.values is None else value_at(row.values, column)
        except BadValue:
            continue
        key = _key(value)
        if key is not None and len(found) < _MOST_VALUES:
            found[key] = None
    return list(found)


def _key(value: Any) -> Any:
    """A value as it is compared: a number as a float, a text in plain spelling; None for what is null, empty or NaN."""
    try:
        found = number(value, "")
    except BadValue:
        return plain(value.strip()) if isinstance(value, str) else None
    return found if found is not None and math.isfinite(found) else None


def _number(value: Any, name: str) -> float:
    found = number(value, f"column {name!r}")
    if found is None:
        raise BadValue("null_value", f"column {name!r} is null")
    if not math.isfinite(found):
        raise BadValue("not_finite", f"column {name!r} is not finite")
    return found


def _is_signed(columns: Columns, column: str, numbers: list[float]) -> bool:
    """Whether the sign of a number says which response is better, as in HelpSteer. A margin may as well be a minus b, and
    -1 beside labels only (0 and 1 with `response_0` and `response_1`) may say that there is a tie."""
    name = plain(column)
    if "strength" in name or name == "overall_preference":
        return True
    known = {-1.0, *(float(label) for label in columns.labels if label.isdecimal())}
    return min(numbers) < 0 and "preference" in name and not {*numbers} <= known


def _labels(columns: Columns, numbers: list[float]) -> dict[Any, int]:
    """What a value may be: a label, the name of a column, or a word with a label (`model_a`)."""
    found: dict[Any, int] = {}
    for at, label in enumerate(columns.labels):
        column = columns.names[f"response_{LETTERS[at]}"]
        words = ("model", "response", "answer", "assistant", "output", "completion")
        spelled = [label, plain(column), *(f"{word}_{label}" for word in words), *(f"{word}{label}" for word in words)]
        spelled += [pair[at] for pair in _ORDINALS]
        found |= dict.fromkeys(spelled, at)
        if label.isdecimal():
            found[float(label)] = at
    if columns.labels == LETTERS and {1.0, 2.0} == {*numbers}:  # counted from one: 0 and 1 could be either
        found |= {1.0: 0, 2.0: 1}
    return found


def _of_side(columns: Columns, chosen: int) -> dict[str, str]:
    """Role -> column of a row whose response a (0) or b (1) is chosen."""
    names = dict(columns.names)
    for at, letter in enumerate(LETTERS):
        side = SIDES[0] if at == chosen else SIDES[1]
        for ours, theirs in columns.names.items():
            if ours == f"response_{letter}":
                names[side] = theirs
            elif ours.endswith(f"_{letter}") and f"{ours[:-2]}_{side}" in columns.numbers:
                names[f"{ours[:-2]}_{side}"] = theirs
    return names


def _renamed(columns: Columns, chosen: int) -> dict[str, str]:
    """The other columns that belong to one response -> their names with `chosen` or `rejected` in place of its label."""
    words = {name: plain(name).split("_") for name in columns.others}
    known = {tuple(spelled) for spelled in words.values()}
    found: dict[str, str] = {}
    for name, spelled in words.items():
        for at, label in enumerate(columns.labels):
            place = spelled.index(label) if label in spelled else -1
            other = [*spelled[:place], columns.labels[1 - at], *spelled[place + 1 :]]
            if place >= 0 and tuple(other) in known:
                found[name] = "_".join(
                    [*spelled[:place], SIDES[0] if at == chosen else SIDES[1], *spelled[place + 1 :]]
                )
    return found
