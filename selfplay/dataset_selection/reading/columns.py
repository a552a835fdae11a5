"""Which column is what: the names that preference datasets give to prompt, responses, rewards and log-probs.

Names that the user gives come first, then our own names (design: the pairs table), then the names recognised here. Of
two columns that could be one of ours none is taken in silence: that is refused, with both names. What was taken is
returned, and `selfplay select` prints it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.column_names import (
    DERIVED,
    OF_LISTS,
    OF_PAIRS,
    OF_ROWS,
    OUR_NAMES,
    PAIR_NUMBERS,
    PROMPT_NUMBERS,
    PROMPTS,
    RESPONSE_NUMBERS,
    REWARDS,
    SIDED,
    SIDED_NUMBERS,
    SIDES,
    TEXTS,
)

Shape = Literal["pairs", "numbers", "lists", "rows"]


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a source are. `names`: our name -> theirs; `named`: the ours that the user gave; `numbers`:
    the ours that hold one number a row; `of_prompts`: those that hold one number a prompt, where rows are prompts or
    responses; `others`: their columns that go along as they are.

    `shape`: "pairs" (texts), "numbers" (pairs without texts), "lists" (one row a prompt with lists of responses) or
    "rows" (one row a response).
    """

    shape: Shape
    names: Mapping[str, str]
    numbers: tuple[str, ...]
    others: tuple[str, ...]
    named: frozenset[str] = frozenset()
    notes: tuple[str, ...] = field(default=())
    of_prompts: tuple[str, ...] = ()


def several_responses(columns: Iterable[str]) -> str | None:
    """The first of some columns that is known to hold lists of responses."""
    return next((name for name in columns if _plain(name) in TEXTS["responses"]), None)


def recognise(
    source: str,
    columns: Sequence[str],
    *,
    named: Mapping[str, str],
    wanted: Collection[str],
    prefer: Literal["pairs", "responses"],
) -> Columns:
    """Find out what the `columns` of `source` (only for messages) are; see `reading.read_dataset` for the arguments.

    Raises DataError for names that are not there, for two columns that could be one of ours, and for columns that are
    neither pairs nor responses.
    """
    _check_named(source, columns, named, wanted)
    finder = _Finder(source, columns, {ours: theirs for ours, theirs in named.items() if theirs}, frozenset(named))
    shape = _shape(finder, prefer)
    of_prompts: list[str] = []
    if shape in ("pairs", "numbers"):
        numbers = _find_pairs(finder, shape, wanted)
    else:
        numbers, of_prompts = _find_responses(finder, shape, wanted)
    if shape != "numbers":
        _find_prompt(finder)
    finder.take("group", "group")
    unused = [ours for ours in finder.given if ours not in finder.names]
    if unused:
        said = {"pairs": "pairs", "numbers": "pairs without texts", "lists": "a prompt each", "rows": "a response each"}
        raise DataError(
            f"{unused[0]} is given as a column, but the rows of {source} are read as {said[shape]}: it does nothing there",
            f"Remove {unused[0]}, or name the columns that it goes with.",
        )
    # A group, and a number that only the person's own metric reads, stay among the columns that go along: a reward
    # function may name them too. A table of numbers has no function to run, and is never kept twice.
    both = set() if shape == "numbers" else {"group", *(ours for ours in wanted if ours not in OUR_NAMES)}
    used = {theirs for ours, theirs in finder.names.items() if ours not in both}
    others = [name for name in columns if name not in used]
    derived = [name for name in others if name in DERIVED]
    if shape in ("pairs", "numbers") and len(derived) >= 2:
        finder.notes.append(f"left out, since select works them out again: {', '.join(derived)}")
        others = [name for name in others if name not in DERIVED]
    given = frozenset(ours for ours, theirs in named.items() if theirs)
    return Columns(shape, finder.names, tuple(numbers), tuple(others), given, tuple(finder.notes), tuple(of_prompts))


class _Finder:
    """The columns of a source, and what has been found in them so far."""

    def __init__(self, source: str, columns: Sequence[str], given: Mapping[str, str], closed: frozenset[str]) -> None:
        self.source = source
        self.columns = columns
        self.given = given
        self.closed = closed  # ours that the user spoke of: nothing else is taken for them
        self.plain: dict[
            str, list[str]
        ] = {}  # a spelling without case and punctuation -> the columns that are spelled so
        for name in columns:
            self.plain.setdefault(_plain(name), []).append(name)
        self.names: dict[str, str] = {}
        self.notes: list[str] = []

    def candidates(self, ours: str, aliases: Sequence[str]) -> list[str]:
        """The columns that could be one of ours, best first: the user's, our own name, the recognised ones."""
        if ours in self.closed:
            return [self.given[ours]] if ours in self.given else []
        if ours in self.columns:
            return [ours]
        return list(dict.fromkeys(name for alias in aliases for name in self.plain.get(alias, ())))

    def take(self, ours: str, *aliases: str) -> bool:
        """Take the one column that can be `ours`. Raises DataError where there are several."""
        found = self.candidates(ours, aliases)
        if len(found) > 1:
            raise _ambiguous(self.source, ours, found)
        if found:
            self.names[ours] = found[0]
        return bool(found)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_").replace("/", "_").replace(" ", "_")


def _check_named(source: str, columns: Sequence[str], named: Mapping[str, str], wanted: Collection[str]) -> None:
    ours_known = (*OUR_NAMES, *wanted)
    for ours, theirs in named.items():
        if ours not in ours_known:
            near = difflib.get_close_matches(ours, ours_known, 1)
            raise DataError(
                f"{ours!r} in the given columns is no name of ours; those are {', '.join(ours_known)}",
                f"Did you mean {near[0]}={theirs}?" if near else "Give columns as OUR_NAME=THEIR_NAME.",
            )
        if theirs and theirs not in columns:
            near = difflib.get_close_matches(theirs, columns, 1)
            raise DataError(
                f"{source} has no column {theirs!r}; it has {', '.join(columns)}",
                f"Did you mean {ours}={near[0]}?" if near else f"Set {ours} to one of these.",
            )
    for theirs in named.values():
        twice = [
            ours for ours, other in named.items() if theirs and other == theirs and ours not in ("group", "prompt_id")
        ]
        if len(twice) > 1:
            raise DataError(
                f"column {theirs!r} is given as {' and as '.join(twice)}", "Give each of them a column of its own."
            )


def _shape(finder: _Finder, prefer: str) -> Shape:
    """What the rows are: by the columns there are, the kind that the user's own names belong to, and `prefer`."""
    found = {ours: bool(finder.candidates(ours, aliases)) for ours, aliases in TEXTS.items()}
    pairs: Shape | None = "pairs" if found["chosen"] and found["rejected"] else None
    if pairs is None and not found["chosen"] and not found["rejected"] and _has_pair_numbers(finder):
        pairs = "numbers"
    responses: Shape | None = "lists" if found["responses"] else "rows" if found["response"] else None
    if any(ours in OF_LISTS for ours in finder.given) and responses is not None:
        responses = "lists"
    elif any(ours in OF_ROWS for ours in finder.given) and found["response"]:
        responses = "rows"
    of_pairs = any(ours in OF_PAIRS for ours in finder.given)
    of_responses = any(ours in (*OF_LISTS, *OF_ROWS) for ours in finder.given)
    if prefer == "pairs" and of_responses and not of_pairs and responses is not None:
        return responses
    if pairs == "numbers" and responses is not None and not of_pairs:
        pairs = None
    best = (pairs or responses) if prefer == "pairs" else responses
    if best is None:
        raise _no_shape(finder, prefer, found)
    return best


def _has_pair_numbers(finder: _Finder) -> bool:
    sided = any(_sided(finder, stem) is not None for stem in ("reward", "policy_logp"))
    return sided or bool(finder.candidates("explicit_margin", ()))


def _sided(finder: _Finder, stem: str) -> tuple[str, str] | None:
    """The two columns of one number of a pair, None where there are none. Raises DataError where there are several."""
    chosen, rejected = (f"{stem}_{side}" for side in SIDES)
    if chosen in finder.closed or rejected in finder.closed:
        found = [finder.candidates(ours, ()) for ours in (chosen, rejected)]
        if found[0] and found[1]:
            return found[0][0], found[1][0]
        if found[0] or found[1]:
            there, lacking = (chosen, rejected) if found[0] else (rejected, chosen)
            raise DataError(
                f"{there} is given as a column, {lacking} is not", f"Give {lacking} too: --columns {lacking}=COLUMN."
            )
        return None
    options = []
    for template in SIDED[stem]:
        sides = [finder.plain.get(template.format(side), []) for side in SIDES]
        if template == SIDED[stem][0] and chosen in finder.columns and rejected in finder.columns:
            return chosen, rejected
        options += [(first, second) for first in sides[0] for second in sides[1] if _alike(first, second)]
    if len(options) > 1:
        names = [" and ".join(option) for option in options]
        raise DataError(
            f"{finder.source}: {stem} can be read from {' or from '.join(names)}",
            f"Choose: --columns {chosen}={options[0][0]},{rejected}={options[0][1]}",
        )
    return options[0] if options else None


def _alike(first: str, second: str) -> bool:
    """Whether two names differ only in their side (`score-chosen` does not go with `score_rejected`)."""
    return first.lower().replace("chosen", "") == second.lower().replace("rejected", "")


def _find_pairs(finder: _Finder, shape: Shape, wanted: Collection[str]) -> list[str]:
    if shape == "pairs":
        for ours in SIDES:
            finder.take(ours, *TEXTS[ours])
        finder.take("prompt_id", "prompt_id")
    numbers = []
    for stem in SIDED:
        found = _sided(finder, stem)
        if found is None:
            _note_half(finder, stem)
            continue
        for side, theirs in zip(SIDES, found, strict=True):
            finder.names[f"{stem}_{side}"] = theirs
            numbers.append(f"{stem}_{side}")
    # a margin of its own counts where there are no rewards to make one of
    if "reward_chosen" not in finder.names and finder.take("explicit_margin", "explicit_margin"):
        numbers.append("explicit_margin")
    for ours in dict.fromkeys((*PAIR_NUMBERS, *wanted)):
        if ours not in (*SIDED_NUMBERS, "embedding", *DERIVED) and finder.take(ours, ours):
            numbers.append(ours)
    finder.take("embedding", "embedding")
    if not finder.take("pair_id", "pair_id"):
        _take_id(finder, "pair_id")
    return numbers


def _take_id(finder: _Finder, ours: str) -> None:
    if ours not in finder.closed and "id" in finder.columns:
        finder.names[ours] = "id"


def _note_half(finder: _Finder, stem: str) -> None:
    """Say that one side of a number was found without the other."""
    for template in SIDED[stem]:
        sides = {side: finder.plain.get(template.format(side), []) for side in SIDES}
        for side, other in (SIDES, SIDES[::-1]):
            if sides[side] and not sides[other] and f"{stem}_{side}" not in finder.closed:
                finder.notes.append(f"{sides[side][0]!r} has no counterpart for {other}: not used as {stem}")


def _find_responses(finder: _Finder, shape: Shape, wanted: Collection[str]) -> tuple[list[str], list[str]]:
    """The numbers of responses that stand one a row, and those of prompts."""
    theirs = [ours for ours in wanted if ours not in (*OUR_NAMES, *DERIVED)]
    of_prompts = [ours for ours in dict.fromkeys((*PROMPT_NUMBERS, *theirs)) if finder.take(ours, ours)]
    if shape == "lists":
        finder.take("responses", *TEXTS["responses"])
        finder.take("rewards", *REWARDS["rewards"])
        for ours in ("policy_logps", "reference_logps", "nums_tokens"):
            finder.take(ours, ours)
        if not finder.take("prompt_id", "prompt_id"):
            _take_id(finder, "prompt_id")
        return [], of_prompts
    finder.take("response", *TEXTS["response"])
    numbers = ["reward"] if finder.take("reward", *REWARDS["reward"]) else []
    numbers += [ours for ours in RESPONSE_NUMBERS if finder.take(ours, ours)]
    finder.take("prompt_id", "prompt_id")
    if not finder.take("response_id", "response_id"):
        _take_id(finder, "response_id")
    return numbers, of_prompts


def _find_prompt(finder: _Finder) -> None:
    """The prompt; with `instruction`, the Alpaca form's `input` that goes with it; a system prompt beside it."""
    used = set(finder.names.values())
    aliases = [name for name in PROMPTS if not used.intersection(finder.plain.get(name, ()))]
    found = finder.candidates("prompt", aliases)
    if "prompt" not in finder.closed and len(found) > 1 and _plain(found[-1]) == "input":
        found = found[:-1]
    if len(found) > 1:
        raise _ambiguous(finder.source, "prompt", found)
    if not found:
        return
    finder.names["prompt"] = found[0]
    if _plain(found[0]) == "instruction" and finder.take("input", "input"):
        finder.notes.append(
            "a row's input, where it has one, stands below its instruction (as LLaMA-Factory joins them)"
        )
    elif "input" in finder.given:
        finder.take("input", "input")
    if finder.take("system", *TEXTS["system"]):
        finder.notes.append(f"{finder.names['system']!r} is used as the system prompt")


def _ambiguous(source: str, ours: str, found: Sequence[str]) -> DataError:
    return DataError(
        f"{source}: {ours} can be read from {' or from '.join(found)}",
        f"Choose: --columns {ours}={found[0]} (or another of them; {ours}= takes none)",
    )


def _no_shape(finder: _Finder, prefer: str, found: Mapping[str, bool]) -> DataError:
    there = f"{finder.source} has the columns {', '.join(finder.columns)}"
    if found["chosen"] != found["rejected"]:
        has, lacks = SIDES if found["chosen"] else SIDES[::-1]
        return DataError(f"{there}: {has} without {lacks}", f"Name it: --columns {lacks}=COLUMN.")
    if prefer == "responses":
        return DataError(
            f"{there}: no responses to build pairs from",
            "Name them: --columns responses=COLUMN,rewards=COLUMN (lists, one row a prompt) or "
            "prompt=COLUMN,response=COLUMN,reward=COLUMN (one row a response).",
        )
    return DataError(
        f"{there}: neither pairs nor responses are recognised in them",
        "Name them: --columns prompt=COLUMN,chosen=COLUMN,rejected=COLUMN for pairs, "
        "responses=COLUMN,rewards=COLUMN for lists of responses, or response=COLUMN,reward=COLUMN for one row a response.",
    )
