"""Which column is what: the map of one source's columns to our names.

Names that the user gives come first, then our own names (the pairs table in docs/data.md), then the aliases of roles.py. Where
two columns could have one role, the source is refused with both names. The map is returned, and `selfplay select` prints it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from selfplay.core.errors import DataError
from selfplay.inputs.rows.around import lists_as_text, unread
from selfplay.inputs.rows.finder import Finder
from selfplay.inputs.rows.names import near_names, plain
from selfplay.inputs.rows.roles import (  # fmt: skip
    DERIVED,
    LETTERS,
    PAIR_NUMBERS,
    PAIRS,
    PROMPT_NUMBERS,
    RESPONSE_NUMBERS,
    ROLES,
    ROW_ID,
    SIDED,
    SIDES,
    Shape,
)
from selfplay.inputs.rows.shapes import find_shape
from selfplay.inputs.rows.survey import Survey

_ROWS: dict[Shape, str] = {
    "pairs": "pairs",
    "choices": "two responses and which is better",
    "numbers": "pairs without texts",
    "lists": "one prompt each",
    "rows": "one response each",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The roles of a source's columns. `names`: our name -> their column or field; `named`: the ours that the user gave;
    `numbers`: the ours that hold one number a row; `of_prompts`: those that hold one number a prompt, where rows are prompts or
    responses; `others`: their columns that are kept as they are; `labels`: what the two responses of a choice are called in the
    names of their columns ("a", "b"); `notes`: what was assumed or left out."""

    shape: Shape
    names: Mapping[str, str]
    numbers: tuple[str, ...]
    others: tuple[str, ...]
    named: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    of_prompts: tuple[str, ...] = ()
    labels: tuple[str, str] = LETTERS


def several_responses(columns: Iterable[str]) -> str | None:
    """The first of some columns that is known to hold lists of responses."""
    return next((name for name in columns if plain(name) in ROLES["responses"].aliases), None)


def prompt_columns(source: str, found: Survey, column: str) -> Columns:
    """The map of a prompt source whose prompts are in `column` (or a field): it, the columns that belong to it, and the
    others."""
    finder = Finder(source, found, {"prompt": column})
    _find_prompt(finder)
    others = tuple(name for name in found.columns if name != column)
    notes = (
        *finder.notes,
        *found.of_files,
        *unread(found, [name for name in others if name not in finder.names.values()], {*finder.names.values()}),
    )
    return Columns("lists", finder.names, (), others, notes=notes)


def recognise(
    source: str,
    found: Survey,
    *,
    named: Mapping[str, str],
    wanted: Collection[str],
    prefer: Literal["pairs", "responses"],
) -> Columns:
    """Find out what the columns of `source` (its name, for messages) are. `named`: our name -> theirs, as the user
    gave it, an empty name for "there is none"; `wanted`: further columns of numbers that a metric reads; `prefer`: what
    to read where the columns hold both.

    Raises DataError for names that do not exist, for two columns that could have one role, and for columns that are
    neither pairs nor responses.
    """
    _check_named(source, found, named, wanted)
    finder = Finder(source, found, named)
    shape = find_shape(finder, prefer)
    labels = LETTERS
    if shape == "choices":
        labels = finder.take_choice()
    numbers, of_prompts = _find_numbers(finder, shape, wanted, labels)
    for role in ROLES.values():
        if shape in role.shapes and role.kind != "number" and role.name not in _AROUND:
            finder.take(role.name)
    if shape == "lists":
        finder.take_fields()
    if shape == "choices" and "preference" not in finder.names:
        finder.take("preference_strength")
    if shape != "numbers":
        _find_prompt(finder)
    row_id = ROW_ID[shape]
    if row_id not in finder.names and row_id not in named and "id" in found.columns:
        finder.names[row_id] = "id"
    unused = [ours for ours in finder.given if ours not in finder.names]
    if unused:
        raise DataError(
            f"{unused[0]} is given as a column, but the rows of {source} are read as {_ROWS[shape]}: it does nothing there",
            f"Remove {unused[0]}, or name the columns that it goes with.",
        )
    # A group, and a number that only the user's own metric reads, stay among the other columns: a reward function may
    # name them too. A table of numbers has no function to run, and is never kept twice.
    both = set() if shape == "numbers" else {"group", *(ours for ours in wanted if ours not in ROLES)}
    used = {theirs for ours, theirs in finder.names.items() if ours not in both}
    if shape == "lists":  # of a list of objects, each response keeps what is its own
        used.add(finder.names["responses"].partition(".")[0])
    others = [name for name in found.columns if name not in used]
    derived = [name for name in others if name in DERIVED]
    if shape in PAIRS and len(derived) >= 2:
        finder.notes.append(f"left out, since select computes them again: {', '.join(derived)}")
        others = [name for name in others if name not in DERIVED]
    notes = (*finder.notes, *found.of_files)
    if shape != "numbers":
        notes += (*unread(found, others, {*finder.names.values()}), *lists_as_text(found, finder.names))
    given = frozenset(finder.given)
    return Columns(
        shape, finder.names, tuple(numbers), tuple(others), given, notes, tuple(of_prompts), labels
    )  # fmt: skip


# What belongs to a prompt: found last, among the columns that nothing else is.
_AROUND = ("prompt", "input", "system", "history")


def _check_named(source: str, found: Survey, named: Mapping[str, str], wanted: Collection[str]) -> None:
    known = (*ROLES, *wanted)
    for ours, theirs in named.items():
        if ours not in known:
            near = near_names(ours, known)
            raise DataError(
                f"{ours!r} is not a name of --columns; the names are {', '.join(known)}",
                f"Did you mean {near[0]}={theirs}?" if near else "Give columns as OUR_NAME=THEIR_NAME.",
            )
        if theirs and theirs not in (*found.columns, *found.fields):
            inside = [name for name in found.fields if name.startswith(f"{theirs.partition('.')[0]}.")]
            there = (*found.columns, *(inside if "." in theirs else ()))
            near = near_names(theirs, there)
            raise DataError(
                f"{source} has no column {theirs!r}; it has {', '.join(there)}",
                f"Did you mean {ours}={near[0]}?" if near else f"Set {ours} to one of these.",
            )
    for theirs in filter(None, named.values()):
        twice = [ours for ours, other in named.items() if other == theirs and ours not in ("group", "prompt_id")]
        if len(twice) > 1:
            raise DataError(
                f"column {theirs!r} is given as {' and as '.join(twice)}", "Give each of them a column of its own."
            )


def _find_numbers(
    finder: Finder, shape: Shape, wanted: Collection[str], labels: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """Take the numbers of rows, and those of prompts beside responses."""
    own = [ours for ours in wanted if ours not in ROLES and ours not in DERIVED]
    if shape in ("lists", "rows"):
        numbers = [ours for ours in ("reward", *RESPONSE_NUMBERS) if shape == "rows" and finder.take(ours)]
        if shape == "rows" and "reward" not in numbers and finder.take("rank"):
            finder.note_ranks("rank")
            numbers.append("rank")
        return numbers, [ours for ours in (*PROMPT_NUMBERS, *own) if finder.take(ours)]
    numbers = []
    is_margin_given = "implicit_margin" in finder.given and finder.take("implicit_margin")
    sides = LETTERS if shape == "choices" else SIDES
    for stem in SIDED:
        if is_margin_given and "logp" in stem and f"{stem}_{sides[0]}" not in finder.given:
            continue  # the margin that the user named is not to be replaced by a computed one
        found = finder.sides(stem, sides, labels if shape == "choices" else SIDES)
        if found is None:
            if shape != "choices":
                finder.note_half(stem)
            continue
        for side, theirs in zip(sides, found, strict=True):
            finder.names[f"{stem}_{side}"] = theirs
        numbers += [f"{stem}_{side}" for side in SIDES]
    # a margin of its own counts where there are no rewards to make one of
    if f"reward_{sides[0]}" not in finder.names and finder.take("explicit_margin"):
        numbers.append("explicit_margin")
    numbers += ["implicit_margin"] if is_margin_given else []
    return [*numbers, *(ours for ours in (*PAIR_NUMBERS, *own) if finder.take(ours))], []


def _find_prompt(finder: Finder) -> None:
    """The prompt; with `instruction`, the Alpaca form's `input` that goes with it; the turns before it and a system prompt."""
    answers = (finder.names.get(ours) for ours in ("chosen", "response_a", "responses", "response"))
    has_turns = any(finder.survey.kind(name) in ("dialogue", "dialogues") for name in answers if name is not None)
    finder.take("prompt", without=set(finder.names.values()), later=not has_turns)
    prompt = finder.names.get("prompt")
    used = {prompt} if prompt is not None else set[str]()
    if prompt is not None and plain(prompt) == "instruction" and finder.take("input"):
        finder.notes.append(
            f"{finder.names['input']!r}, where a row has one, is put below its instruction (as in LLaMA-Factory)"
        )
    elif prompt is not None and "input" in finder.given:
        finder.take("input")
    if finder.take("history", without=used):
        finder.notes.append(f"{finder.names['history']!r} is used as the turns before the prompt")
    if finder.take("system", without=used):
        finder.notes.append(f"{finder.names['system']!r} is used as the system prompt")
