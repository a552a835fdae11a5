"""Names of columns: their spelling, and the name that is most likely meant by a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Two names with different words of one group, or one of them with a qualifier, have different meanings.
_OPPOSITES = (
    ("chosen", "rejected"), ("explicit", "implicit"), ("policy", "ref"), ("reward", "logp", "token", "rank"),
    ("_a", "_b"), ("prompt", "response"),
)  # fmt: skip
_QUALIFIERS = ("norm", "mean", "abs", "alone")


def plain(name: str) -> str:
    """A spelling without case and punctuation: "Chosen-Score", "chosen.score" and "chosen score" are "chosen_score"."""
    return name.lower().replace("-", "_").replace(".", "_").replace("/", "_").replace(" ", "_")


def near_names(name: str, options: Iterable[str]) -> list[str]:
    """The option that is most likely meant by a misspelled name, if any; never one of another meaning."""
    alike = [option for option in options if not _differ_in_meaning(plain(name), plain(option))]
    return difflib.get_close_matches(name, alike, 1, cutoff=0.7)


def _differ_in_meaning(first: str, second: str) -> bool:
    words = [[{word for word in group if word in name} for group in _OPPOSITES] for name in (first, second)]
    opposite = any(one and other and one != other for one, other in zip(*words, strict=True))
    return opposite or any((word in first) != (word in second) for word in _QUALIFIERS)
