"""The words that two texts do not share, for reading two responses side by side. The work is bounded for any texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# A word with the white space behind it, a sign likewise, or white space at the beginning.
_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
# What ends with a sign that ends a sentence, or with the line.
_SENTENCES = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")
BUDGET = 1_000_000
"""Comparisons of tokens for one pair of texts: what bounds the time (to about 0.1 s)."""
# Comparing by words finds one common stretch after the other, each at up to the cost of the first.
_STRETCHES = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one text; `only` where the other text does not have it."""

    text: str
    only: bool


def word_diff(left: str, right: str, budget: int = BUDGET) -> tuple[list[Piece], list[Piece]]:
    """Both texts as pieces, whose texts joined are the text. White space behind a word is not compared.

    Compared by words, or by sentences where words would take long (100 kB of prose). What differs once the budget is spent
    differs as a whole.
    """
    one, two = _WORDS.findall(left), _WORDS.findall(right)
    matcher = _Matcher(one, two, budget)
    if matcher.cost(0, len(one)) * _STRETCHES > budget:
        one, two = _SENTENCES.findall(left), _SENTENCES.findall(right)
        matcher = _Matcher(one, two, budget)
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, start, stop, start_two, stop_two in matcher.get_opcodes():
        for pieces, text in zip(sides, ("".join(one[start:stop]), "".join(two[start_two:stop_two])), strict=True):
            if text and pieces and pieces[-1].only == (kind != "equal"):
                pieces[-1] = Piece(pieces[-1].text + text, pieces[-1].only)
            elif text:
                pieces.append(Piece(text, kind != "equal"))
    return sides


class _Matcher(difflib.SequenceMatcher[str]):
    """A SequenceMatcher that finds no more common stretches once its budget is spent; `left` is what is left of it."""

    a: Sequence[str]
    b2j: dict[str, list[int]]

    def __init__(self, one: Sequence[str], two: Sequence[str], left: int) -> None:
        super().__init__(None, _keys(one), _keys(two), autojunk=False)
        self.left = left
        self._until = list(accumulate((len(self.b2j.get(token, ())) + 1 for token in self.a), initial=0))

    def cost(self, low: int, high: int) -> int:
        """Of looking for the longest stretch that begins in this part of the first text."""
        return self._until[high] - self._until[low]

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        """A stretch of length 0 where looking for the longest would cost more than is left."""
        cost = self.cost(alo, len(self.a) if ahi is None else ahi)
        if cost > self.left:
            return difflib.Match(alo, blo, 0)
        self.left -= cost
        return super().find_longest_match(alo, ahi, blo, bhi)


def _keys(tokens: Sequence[str]) -> list[str]:
    """What is compared of tokens."""
    return [token.strip() for token in tokens]
