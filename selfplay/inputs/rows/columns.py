"""Which column is what: a table of roles, the names that datasets give to them, and the map of one source's columns.

Names that the user gives come first, then our own names (the pairs table in docs/data.md), then the aliases below. Where
two columns could have one role, the source is refused with both names. The map is returned, and `selfplay select` prints it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selfplay.core.errors import DataError

Shape = Literal["pairs", "numbers", "lists", "rows"]
"""Pairs with texts, pairs without texts, one row a prompt with lists of responses, one row a response."""

_PAIRS: tuple[Shape, ...] = ("pairs", "numbers")
_TEXTS: tuple[Shape, ...] = ("pairs", "lists", "rows")
_ALL: tuple[Shape, ...] = ("pairs", "numbers", "lists", "rows")
SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Role:
    """What a column can be: our name, the shapes of rows that have it, and the aliases that are recognised (lower case,
    with underscores). `kind`: what its values are."""

    name: str
    shapes: tuple[Shape, ...]
    aliases: tuple[str, ...] = ()
    kind: Literal["messages", "text", "list", "number", "id", "group", "embedding"] = "number"


@dataclass(frozen=True, slots=True)
class SidedRole:
    """A number that comes once for each response of a pair. Aliases are templates, and count only where the columns of
    both sides exist, so that both numbers of a pair are of one kind. The first alias is our own name."""

    name: str
    aliases: tuple[str, ...]


def _sided(name: str, words: Sequence[str], *more: str) -> SidedRole:
    return SidedRole(name, (*(form for word in words for form in (f"{word}_{{}}", f"{{}}_{word}")), *more))


SIDED = {
    role.name: role
    for role in (
        _sided("reward", ("reward", "score", "rating", "avg_rating", "rm_score", "rm_reward", "reward_score")),
        _sided(
            "policy_logp",
            ("policy_logp", "policy_logps", "logp", "logps"),
            "policy_{}_logp",
            "policy_{}_logps",
        ),
        _sided(
            "reference_logp",
            ("reference_logp", "reference_logps", "ref_logp", "ref_logps"),
            *(f"{word}_{{}}_{logp}" for word in ("reference", "ref") for logp in ("logp", "logps")),
        ),
        _sided("num_tokens", ("num_tokens", "n_tokens", "token_count"), "num_{}_tokens"),
    )
}
SIDED_NUMBERS = tuple(f"{stem}_{side}" for stem in SIDED for side in SIDES)

# Numbers that come once for each pair. Of these, what comes once for each prompt may also stand beside its responses.
PAIR_NUMBERS = (
    "policy_logp_chosen_alone", "ask_llm_yes", "prompt_entropy", "prompt_reward_mean", "prompt_reward_std",
    "seed_implicit_margin", "validation_loss", "reward_fresh", "num_prompt_tokens",
)  # fmt: skip
_PROMPT_NUMBERS = ("prompt_entropy", "reward_fresh")
_RESPONSE_NUMBERS = ("policy_logp", "reference_logp", "num_tokens")
_LIST_NUMBERS = ("policy_logps", "reference_logps", "nums_tokens")

ROLES = {
    role.name: role
    for role in (
        Role(
            "prompt",
            _TEXTS,
            ("prompt", "instruction", "question", "query", "conversations", "conversation", "input"),
            "messages",
        ),
        Role("input", _TEXTS, ("input",), "text"),
        Role("system", _TEXTS, ("system", "system_prompt"), "text"),
        Role("chosen", ("pairs",), ("chosen", "chosen_response", "response_chosen", "chosen_answer"), "messages"),
        Role(
            "rejected",
            ("pairs",),
            ("rejected", "reject", "rejected_response", "response_rejected", "rejected_answer"),
            "messages",
        ),
        Role(
            "responses",
            ("lists",),
            ("responses", "all_generated_responses", "generated_responses", "all_responses", "completions", "generations"),
            "list",
        ),
        Role(
            "rewards",
            ("lists",),
            ("rewards", "all_rm_scores", "all_rewards", "all_scores", "rm_scores", "scores", "reward_scores", "ratings",
             "rating"),
            "list",
        ),
        *(Role(name, ("lists",), (name,), "list") for name in _LIST_NUMBERS),
        Role("response", ("rows",), ("response", "completion", "generation", "generated_text", "output"), "messages"),
        Role("reward", ("rows",), ("reward", "score", "rm_score", "rating", "reward_score", "rm_reward")),
        *(Role(name, ("rows",), (name,)) for name in _RESPONSE_NUMBERS),
        *(Role(name, _PAIRS) for name in SIDED_NUMBERS),
        Role("explicit_margin", _PAIRS, ("explicit_margin",)),
        *(Role(name, _ALL if name in _PROMPT_NUMBERS else _PAIRS, (name,)) for name in PAIR_NUMBERS),
        Role("embedding", _PAIRS, ("embedding",), "embedding"),
        Role("pair_id", _PAIRS, ("pair_id",), "id"),
        Role("response_id", ("rows",), ("response_id",), "id"),
        Role("prompt_id", _TEXTS, ("prompt_id",), "id"),
        Role("group", _ALL, ("group",), "group"),
    )
}  # fmt: skip
# A column "id" is the id of what a row is.
_ROW_ID: dict[Shape, str] = {"pairs": "pair_id", "numbers": "pair_id", "lists": "prompt_id", "rows": "response_id"}

# What an earlier `select`, or a run, has computed: it is computed again here, so it is left out.
DERIVED = frozenset(
    ("explicit_margin", "implicit_margin", "dpo_implicit_margin", "alignment_potential", "metric_value", "rank", "kept",
     "drop_reason")
)  # fmt: skip
# Columns that by their names may belong to the conversation and that are not read.
_NOT_READ = frozenset(
    ("tools", "functions", "history", "image", "images", "audio", "audios", "video", "videos", "documents")
)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a source are. `names`: our name -> theirs; `named`: the ours that the user gave; `numbers`:
    the ours that hold one number a row; `of_prompts`: those that hold one number a prompt, where rows are prompts or
    responses; `others`: their columns that are kept as they are; `notes`: what was assumed or left out."""

    shape: Shape
    names: Mapping[str, str]
    numbers: tuple[str, ...]
    others: tuple[str, ...]
    named: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    of_prompts: tuple[str, ...] = ()


def several_responses(columns: Iterable[str]) -> str | None:
    """The first of some columns that is known to hold lists of responses."""
    return next((name for name in columns if _plain(name) in ROLES["responses"].aliases), None)


def prompt_columns(source: str, columns: Sequence[str], column: str) -> Columns:
    """The map of a prompt source whose prompts are in `column`: it, its `input` and `system` columns, and the others."""
    finder = _Finder(source, columns, {"prompt": column})
    _find_prompt(finder)
    return Columns("lists", finder.names, (), tuple(name for name in columns if name != column), notes=finder.said())


def recognise(
    source: str,
    columns: Sequence[str],
    *,
    named: Mapping[str, str],
    wanted: Collection[str],
    prefer: Literal["pairs", "responses"],
) -> Columns:
    """Find out what the `columns` of `source` (its name, for messages) are. `named`: our name -> theirs, as the user
    gave it, an empty name for "there is none"; `wanted`: further columns of numbers that a metric reads; `prefer`: what
    to read where the columns hold both.

    Raises DataError for names that do not exist, for two columns that could have one role, and for columns that are
    neither pairs nor responses.
    """
    _check_named(source, columns, named, wanted)
    finder = _Finder(source, columns, named)
    shape = _shape(finder, prefer)
    numbers, of_prompts = _find_numbers(finder, shape, wanted)
    for role in ROLES.values():
        if shape in role.shapes and role.kind != "number" and role.name not in ("prompt", "input", "system"):
            finder.take(role.name)
    if shape != "numbers":
        _find_prompt(finder)
    row_id = _ROW_ID[shape]
    if row_id not in finder.names and row_id not in named and "id" in columns:
        finder.names[row_id] = "id"
    unused = [ours for ours in finder.given if ours not in finder.names]
    if unused:
        rows = {
            "pairs": "pairs",
            "numbers": "pairs without texts",
            "lists": "one prompt each",
            "rows": "one response each",
        }
        raise DataError(
            f"{unused[0]} is given as a column, but the rows of {source} are read as {rows[shape]}: it does nothing there",
            f"Remove {unused[0]}, or name the columns that it goes with.",
        )
    # A group, and a number that only the user's own metric reads, stay among the other columns: a reward function may
    # name them too. A table of numbers has no function to run, and is never kept twice.
    both = set() if shape == "numbers" else {"group", *(ours for ours in wanted if ours not in ROLES)}
    used = {theirs for ours, theirs in finder.names.items() if ours not in both}
    others = [name for name in columns if name not in used]
    derived = [name for name in others if name in DERIVED]
    if shape in _PAIRS and len(derived) >= 2:
        finder.notes.append(f"left out, since select computes them again: {', '.join(derived)}")
        others = [name for name in others if name not in DERIVED]
    given = frozenset(finder.given)
    return Columns(shape, finder.names, tuple(numbers), tuple(others), given, finder.said(others), tuple(of_prompts))


class _Finder:
    """The columns of a source, and the roles found so far."""

    def __init__(self, source: str, columns: Sequence[str], named: Mapping[str, str]) -> None:
        self.source = source
        self.columns = columns
        self.named = named
        self.given = {ours: theirs for ours, theirs in named.items() if theirs}
        # a spelling without case and punctuation -> the columns that are spelled so
        self.plain: dict[str, list[str]] = {}
        for name in columns:
            self.plain.setdefault(_plain(name), []).append(name)
        self.names: dict[str, str] = {}
        self.notes: list[str] = []

    def candidates(self, ours: str, without: Collection[str] = ()) -> list[str]:
        """The columns that could be one of ours: the user's, our own name, or the recognised ones."""
        if ours in self.named:
            return [self.given[ours]] if ours in self.given else []
        if ours in self.columns:
            return [ours]
        aliases = ROLES[ours].aliases if ours in ROLES else (ours,)
        found = (name for alias in aliases for name in self.plain.get(alias, ()))
        return [name for name in dict.fromkeys(found) if name not in without]

    def take(self, ours: str, without: Collection[str] = ()) -> bool:
        """Take the one column that can be `ours`. Raises DataError where there are several."""
        found = self.candidates(ours, without)
        if ours == "prompt" and len(found) > 1 and _plain(found[-1]) == "input":
            found = found[:-1]  # the text below an instruction, or a column that goes along
        if len(found) > 1:
            raise DataError(
                f"{self.source}: {ours} can be read from {' or from '.join(found)}",
                f"Choose: --columns {ours}={found[0]} (or another of them; {ours}= for none)",
            )
        if found:
            self.names[ours] = found[0]
        return bool(found)

    def said(self, others: Iterable[str] = ()) -> tuple[str, ...]:
        """The notes, with those on columns that belong to a conversation and are not read."""
        unread = [repr(name) for name in others if _plain(name) in _NOT_READ]
        if unread:
            self.notes.append(f"{', '.join(unread)}: not used as part of the conversation, only text turns are read")
        return tuple(self.notes)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_").replace("/", "_").replace(" ", "_")


def _check_named(source: str, columns: Sequence[str], named: Mapping[str, str], wanted: Collection[str]) -> None:
    known = (*ROLES, *wanted)
    for ours, theirs in named.items():
        if ours not in known:
            near = difflib.get_close_matches(ours, known, 1)
            raise DataError(
                f"{ours!r} in the given columns is not one of our names; those are {', '.join(known)}",
                f"Did you mean {near[0]}={theirs}?" if near else "Give columns as OUR_NAME=THEIR_NAME.",
            )
        if theirs and theirs not in columns:
            near = difflib.get_close_matches(theirs, columns, 1)
            raise DataError(
                f"{source} has no column {theirs!r}; it has {', '.join(columns)}",
                f"Did you mean {ours}={near[0]}?" if near else f"Set {ours} to one of these.",
            )
    for theirs in filter(None, named.values()):
        twice = [ours for ours, other in named.items() if other == theirs and ours not in ("group", "prompt_id")]
        if len(twice) > 1:
            raise DataError(
                f"column {theirs!r} is given as {' and as '.join(twice)}", "Give each of them a column of its own."
            )


def _shape(finder: _Finder, prefer: str) -> Shape:
    """What the rows are: by the columns there are, the shape of the names that the user gave, and `prefer`."""

    def gives(*shapes: Shape) -> bool:
        """Whether the user gave a name that only these shapes have."""
        return any(ours in ROLES and set(ROLES[ours].shapes) <= set(shapes) for ours in finder.given)

    found = {ours: bool(finder.candidates(ours)) for ours in ("chosen", "rejected", "responses", "response")}
    pairs: Shape | None = "pairs" if found["chosen"] and found["rejected"] else None
    if pairs is None and not found["chosen"] and not found["rejected"] and _has_pair_numbers(finder):
        pairs = "numbers"
    responses: Shape | None = "lists" if found["responses"] else "rows" if found["response"] else None
    if gives("lists") and responses is not None:
        responses = "lists"
    elif gives("rows") and found["response"]:
        responses = "rows"
    if prefer == "pairs" and gives("lists", "rows") and not gives(*_PAIRS) and responses is not None:
        return responses
    if pairs == "numbers" and responses is not None and not gives(*_PAIRS):
        pairs = None
    best = (pairs or responses) if prefer == "pairs" else responses
    if best is None:
        raise _no_shape(finder, prefer, found)
    return best


def _has_pair_numbers(finder: _Finder) -> bool:
    sided = any(_sides(finder, stem) is not None for stem in ("reward", "policy_logp"))
    return sided or bool(finder.candidates("explicit_margin"))


def _sides(finder: _Finder, stem: str) -> tuple[str, str] | None:
    """The two columns of one number of a pair, None where there are none. Raises DataError where there are several."""
    chosen, rejected = (f"{stem}_{side}" for side in SIDES)
    if chosen in finder.named or rejected in finder.named:
        found = [finder.candidates(ours) for ours in (chosen, rejected)]
        if found[0] and found[1]:
            return found[0][0], found[1][0]
        if found[0] or found[1]:
            there, lacking = (chosen, rejected) if found[0] else (rejected, chosen)
            raise DataError(
                f"{there} is given as a column, {lacking} is not", f"Give {lacking} too: --columns {lacking}=COLUMN."
            )
        return None
    if chosen in finder.columns and rejected in finder.columns:
        return chosen, rejected
    options = []
    for template in SIDED[stem].aliases:
        sides = [finder.plain.get(template.format(side), []) for side in SIDES]
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


def _find_numbers(finder: _Finder, shape: Shape, wanted: Collection[str]) -> tuple[list[str], list[str]]:
    """Take the numbers of rows, and those of prompts beside responses."""
    own = [ours for ours in wanted if ours not in ROLES and ours not in DERIVED]
    if shape in ("lists", "rows"):
        numbers = [ours for ours in ("reward", *_RESPONSE_NUMBERS) if shape == "rows" and finder.take(ours)]
        return numbers, [ours for ours in (*_PROMPT_NUMBERS, *own) if finder.take(ours)]
    numbers = []
    for stem in SIDED:
        found = _sides(finder, stem)
        if found is None:
            _note_half(finder, stem)
            continue
        for side, theirs in zip(SIDES, found, strict=True):
            finder.names[f"{stem}_{side}"] = theirs
            numbers.append(f"{stem}_{side}")
    # a margin of its own counts where there are no rewards to make one of
    if "reward_chosen" not in finder.names and finder.take("explicit_margin"):
        numbers.append("explicit_margin")
    return [*numbers, *(ours for ours in (*PAIR_NUMBERS, *own) if finder.take(ours))], []


def _note_half(finder: _Finder, stem: str) -> None:
    """Note a number that only one side has."""
    for template in SIDED[stem].aliases:
        sides = {side: finder.plain.get(template.format(side), []) for side in SIDES}
        for side, other in (SIDES, SIDES[::-1]):
            if sides[side] and not sides[other] and f"{stem}_{side}" not in finder.named:
                finder.notes.append(f"{sides[side][0]!r} has no counterpart for {other}: not used as {stem}")


def _find_prompt(finder: _Finder) -> None:
    """The prompt; with `instruction`, the Alpaca form's `input` that goes with it; a system prompt beside it."""
    finder.take("prompt", without=set(finder.names.values()))
    prompt = finder.names.get("prompt")
    if prompt is not None and _plain(prompt) == "instruction" and finder.take("input"):
        finder.notes.append(
            f"{finder.names['input']!r}, where a row has one, is put below its instruction (as in LLaMA-Factory)"
        )
    elif prompt is not None and "input" in finder.given:
        finder.take("input")
    if finder.take("system", without={prompt} if prompt is not None else ()):
        finder.notes.append(f"{finder.names['system']!r} is used as the system prompt")


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
