"""The pair browser: a page of the pairs that a query asks for, each side by side with what the two texts do not share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selfplay.core.commands import shell_command
from selfplay.inspect.reading import finite
from selfplay.inspect.viewer.catalogue import NotServedError
from selfplay.inspect.viewer.filters import range_filters, ranged_columns, reasons
from selfplay.inspect.viewer.matching import find
from selfplay.inspect.viewer.query import KEPT, SIZES, TEXTS, Query, pages_of
from selfplay.inspect.viewer.rows import RowSet
from selfplay.inspect.viewer.word_diff import DiffSpan, word_diff

CLIP = 1_200
"""Characters of a text that a list shows; the pair's own page shows LONGEST."""
LONGEST = 120_000
_LIST_BUDGET = 200_000
# Characters of a text that are compared, which bounds the time of a page.
_DIFFED = 120_000

_FACTS = (
    "alignment_potential", "explicit_margin", "implicit_margin", "metric_value", "reward_chosen", "reward_rejected",
    "num_tokens_chosen", "num_tokens_rejected",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One text of two: its beginning in pieces, how many characters are left out, and what is known of it."""

    pieces: list[DiffSpan]
    left_out: int
    reward: float | None
    num_tokens: int | None


@dataclass(frozen=True, slots=True)
class Card:
    """A pair as pages show it; `prompt` is None and `sides` are empty for a table without texts."""

    row: Mapping[str, Any]
    facts: list[tuple[str, Any]]
    prompt: list[dict[str, str]] | None
    chosen: Side | None
    rejected: Side | None

    @property
    def pair_id(self) -> str:
        return str(self.row["pair_id"])


def parse(rows: RowSet, given: Mapping[str, str]) -> Query:
    """The query of an address. Raises ConfigError."""
    return Query.parse(given, ranged_columns(rows), sortable(rows))


def sortable(rows: RowSet) -> list[str]:
    """The columns that pairs can be put in the order of."""
    return [field.name for field in rows.schema if not pa.types.is_nested(field.type)]


def browse(rows: RowSet, query: Query, command: Sequence[object]) -> dict[str, Any]:
    """What the page of a query shows; `command` is the terminal's `pairs` of the same table (empty: it has none)."""
    found = find(rows, query)
    num_pages, page, shown = pages_of(len(found), query.size, query.page)
    taken = rows.take(found[shown]).to_pylist()
    return {
        "query": query,
        "cards": [card(row, diff=query.diff, clip=CLIP, budget=_LIST_BUDGET) for row in taken],
        "num_found": len(found),
        "num_rows": rows.num_rows,
        "first": shown.start + 1 if taken else 0,
        "page": page,
        "num_pages": num_pages,
        "filters": range_filters(rows, query, found),
        "reasons": reasons(rows),
        "sortable": sortable(rows),
        "sizes": SIZES,
        "kept_words": KEPT,
        "has_text": "chosen" in rows.schema.names,
        "texts": TEXTS,
        "chips": chips(query),
        "command": _command(query, command),
    }


def one(rows: RowSet, query: Query, pair_id: str) -> dict[str, Any]:
    """What the page of one pair shows of it: the pair, and its neighbours among those of the query. Raises NotServedError."""
    at = rows.rows_of("pair_id", [pair_id])
    if not len(at):
        raise NotServedError(f"there is no pair {pair_id!r}", "The list of pairs shows all ids.")
    row = int(at[0])
    taken = rows.take([row]).to_pylist()[0]
    found = find(rows, query)
    ids = rows.column("pair_id")
    place = next(iter((found == row).nonzero()[0].tolist()), None)
    before, after = (
        ids[int(found[at])].as_py() if place is not None and 0 <= at < len(found) else None
        for at in ((place or 0) - 1, (place or 0) + 1)
    )
    return {
        "query": query,
        "card": card(taken, diff=query.diff, clip=LONGEST),
        "place": None if place is None else place + 1,
        "num_found": len(found),
        "before": before,
        "after": after,
        "back": query.but(page=1 if place is None else place // query.size + 1),
    }


def card(row: dict[str, Any], *, diff: bool, clip: int, budget: int | None = None) -> Card:
    """A pair with at most `clip` characters of each text."""
    row = dict(finite(row))
    has_text = row.get("chosen") is not None and row.get("rejected") is not None
    sides: list[Side | None] = [None, None]
    if has_text:
        texts = [conversation_text(row["chosen"]), conversation_text(row["rejected"])]
        # marks first, then the cut: what both texts say behind it is no difference in front of it
        pieces = compared(texts[0][:_DIFFED], texts[1][:_DIFFED], diff=diff, budget=budget)
        sides = [
            Side(
                clipped(shown, clip), max(len(text) - clip, 0), row.get(f"reward_{side}"), row.get(f"num_tokens_{side}")
            )
            for side, text, shown in zip(("chosen", "rejected"), texts, pieces, strict=True)
        ]
    facts = [(name, row[name]) for name in _FACTS if row.get(name) is not None]
    if row.get("metric_value") == row.get("alignment_potential"):
        facts = [fact for fact in facts if fact[0] != "metric_value"]
    prompt = row.get("prompt") if isinstance(row.get("prompt"), list) else None
    return Card(row, facts, prompt, *sides)


def compared(left: str, right: str, *, diff: bool, budget: int | None = None) -> tuple[list[DiffSpan], list[DiffSpan]]:
    """Both texts in pieces; whole ones where no difference is asked for."""
    if not diff:
        return [DiffSpan(left, False)], [DiffSpan(right, False)]
    return word_diff(left, right) if budget is None else word_diff(left, right, budget)


def clipped(pieces: Sequence[DiffSpan], clip: int) -> list[DiffSpan]:
    """The pieces of the first `clip` characters."""
    found, left = [], clip
    for piece in pieces:
        if left <= 0:
            break
        found.append(DiffSpan(piece.text[:left], piece.only))
        left -= len(piece.text)
    return found


def conversation_text(turns: Sequence[Mapping[str, str]]) -> str:
    """What a response says: its turns, named where there are several."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def chips(query: Query) -> list[tuple[str, Query]]:
    """Each part of the filter in words, and the query without it."""
    found: list[tuple[str, Query]] = []
    if query.kept:
        found.append((KEPT[query.kept], query.but(kept="")))
    if query.reason:
        found.append((f"reason: {query.reason}", query.but(reason="")))
    if query.text:
        found.append(
            (f"text: {query.text}" + (f" in {query.scope}" if query.scope else ""), query.but(text="", scope=""))
        )
    for part in query.ranges:
        low = "" if part.low is None else f"{part.low:.4g} ≤ "
        high = "" if part.high is None else f" ≤ {part.high:.4g}"
        found.append((f"{low}{part.column}{high}", query.without_range(part.column)))
    if query.where:
        found.append((query.where, query.but(where="")))
    return found


def _command(query: Query, command: Sequence[object]) -> str:
    if not command:
        return ""
    words = list(command)
    if query.is_filtered:
        words += ["--where", query.filter_text()]
    if query.sort:
        words += ["--sort", query.sort]
    if query.order:
        words.append("--descending" if query.descending else "--ascending")
    return shell_command(*words)
