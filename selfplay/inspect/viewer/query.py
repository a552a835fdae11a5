"""The query of the pair browser. The address holds all of it, so that a page can be bookmarked and shared."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from selfplay.core.errors import ConfigError
from selfplay.inspect.query.where import literal

TEXTS = ("prompt", "chosen", "rejected")
SIZES = (10, 25, 50)
KEPT = {"": "all", "yes": "kept", "no": "dropped"}
# for these the smallest is the most interesting one; for every measure it is the largest
_SMALLEST_FIRST = ("rank", "pair_id", "prompt_id", "source_file", "source_row", "drop_reason")


@dataclass(frozen=True, slots=True)
class Range:
    """Values of a column from `low` to `high`, both included; None: open."""

    column: str
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Query:
    """Which pairs, in which order, and which page of them. `sort` empty: the order of the table, which is by rank."""

    kept: str = ""
    reason: str = ""
    text: str = ""
    scope: str = ""
    where: str = ""
    ranges: tuple[Range, ...] = ()
    sort: str = ""
    order: str = ""
    page: int = 1
    size: int = SIZES[0]
    diff: bool = True

    @classmethod
    def parse(cls, given: Mapping[str, str], ranged: Sequence[str], sortable: Sequence[str]) -> Query:
        """From the parameters of an address; `ranged` and `sortable` are the columns that there are. Raises ConfigError."""
        ranges = []
        for name in ranged:
            low, high = _number(given, f"min.{name}"), _number(given, f"max.{name}")
            if low is not None or high is not None:
                ranges.append(Range(name, low, high))
        found = cls(
            kept=one_of(given, "kept", KEPT),
            reason=given.get("reason", ""),
            text=given.get("q", ""),
            scope=one_of(given, "in", ("", *TEXTS)),
            where=given.get("where", "").strip(),
            ranges=tuple(ranges),
            sort=one_of(given, "sort", ("", *sortable)),
            order=one_of(given, "order", ("", "asc", "desc")),
            page=whole(given, "page", 1),
            size=whole(given, "size", SIZES[0]),
            diff=one_of(given, "diff", ("", "on", "off")) != "off",
        )
        if found.size not in SIZES:
            raise ConfigError(f"size={found.size} is not a size of a page", f"Sizes: {', '.join(map(str, SIZES))}.")
        return found

    @property
    def descending(self) -> bool:
        """Whether the largest comes first; in the order of the table: whether its end does."""
        if self.order:
            return self.order == "desc"
        return bool(self.sort) and self.sort not in _SMALLEST_FIRST

    def clauses(self) -> list[str]:
        """The filter as SQL conditions; all of them must hold."""
        found = [{"": "", "yes": "kept", "no": "NOT kept"}[self.kept]]
        found.append(f"drop_reason = {literal(self.reason)}" if self.reason else "")
        for part in self.ranges:
            found.append(f"{part.column} >= {part.low!r}" if part.low is not None else "")
            found.append(f"{part.column} <= {part.high!r}" if part.high is not None else "")
        if self.text:
            scopes = [self.scope] if self.scope else TEXTS
            # half the time of ILIKE
            pattern = literal(re.escape(self.text))
            found.append(" OR ".join(f"regexp_matches({name}, {pattern}, 'i')" for name in scopes))
        found.append(self.where)
        return [clause for clause in found if clause]

    def filter_text(self) -> str:
        """The filter as one condition, as `selfplay pairs --where` takes it."""
        return " AND ".join(map(_bracketed, self.clauses()))

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out."""
        return bool(self.clauses())

    def parameters(self, *, paged: bool = True) -> dict[str, str]:
        """Parameters of an address that says this, without what is the default."""
        found = {
            "kept": self.kept, "reason": self.reason, "q": self.text, "in": self.scope, "where": self.where,
        }  # fmt: skip
        for part in self.ranges:
            found |= {f"min.{part.column}": short(part.low), f"max.{part.column}": short(part.high)}
        found |= {"sort": self.sort, "order": self.order, "diff": "" if self.diff else "off"}
        if paged:
            found["size"] = str(self.size) if self.size != SIZES[0] else ""
            found["page"] = str(self.page) if self.page != 1 else ""
        return {name: value for name, value in found.items() if value}

    def encoded(self, *, paged: bool = True, **more: str) -> str:
        """`?...` with `more` parameters in front; empty where nothing is said."""
        text = urlencode({**more, **self.parameters(paged=paged)})
        return f"?{text}" if text else ""

    def but(self, **changes: Any) -> Query:
        """The same with changes; on its first page, unless a page is given."""
        return dataclasses.replace(self, **{"page": 1, **changes})

    def without_range(self, column: str) -> Query:
        """The same without the range of a column."""
        return self.but(ranges=tuple(part for part in self.ranges if part.column != column))

    def range_of(self, column: str) -> Range:
        """The range of a column; open if none is set."""
        return next((part for part in self.ranges if part.column == column), Range(column, None, None))


def _bracketed(clause: str) -> str:
    if "--" in clause:  # a comment ends with its line
        return f"({clause}\n)"
    return f"({clause})" if re.search(r"\bor\b", clause, re.IGNORECASE) else clause


def short(value: float | None) -> str:
    """A bound as it is typed; empty where it is open."""
    return "" if value is None else f"{value!r}".removesuffix(".0")


def one_of(given: Mapping[str, str], name: str, allowed: Sequence[str] | Mapping[str, str]) -> str:
    """A parameter that is one of a few words, the first of them if it is missing or empty. Raises ConfigError."""
    value = given.get(name) or next(iter(allowed))
    if value in allowed:
        return value
    known = [word for word in allowed if word]
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{name}={value!r} is unknown", f"{hint}Available: {', '.join(known)}.")


def whole(given: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """A parameter that is a whole number. Raises ConfigError."""
    value = given.get(name, "").strip()
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) < least:
        raise ConfigError(f"{name}={value!r} is not a number from {least} on", "Follow a link of the page.")
    return int(value)


def pages_of(num: int, size: int, page: int) -> tuple[int, int, slice]:
    """The number of pages that `num` things take, the page that is shown where `page` is asked for, and its places among them."""
    num_pages = max(-(-num // size), 1)
    page = min(page, num_pages)
    return num_pages, page, slice((page - 1) * size, page * size)


def _number(given: Mapping[str, str], name: str) -> float | None:
    value = given.get(name, "").strip()
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name}={value!r} is not a number", "Write it like 0.25 or 1e-3, or leave it empty.")
    return number
