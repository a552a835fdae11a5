"""What two texts do not share, by words: for reading two responses side by side. Bounded work, whatever the texts."""

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

    Compared by words; where that would take long (100 kB of prose) by sentences first, and by words between the sentences
    that both have, as far as `budget` goes. What is left then differs as a whole.
    """
    return _Diff(budget).of(left, right)


class _Matcher(difflib.SequenceMatcher[str]):
    """Finds no more common stretches once what it may spend is spent; `left` is what it has not spent."""

    a: Sequence[str]
    b2j: dict[str, list[int]]

    def __init__(self, one: Sequence[str], two: Sequence[str], left: int) -> None:
        super().__init__(None, one, two, autojunk=False)
        self.left = left
        self._until = list(accumulate((len(self.b2j.get(token, ())) + 1 for token in one), initial=0))

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


class _Diff:
    """One comparison under way."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._sides: tuple[list[Piece], list[Piece]] = ([], [])

    def of(self, left: str, right: str) -> tuple[list[Piece], list[Piece]]:
        words = _WORDS.findall(left), _WORDS.findall(right)
        start = _common(words[0], words[1])
        rest = words[0][start:], words[1][start:]
        end = _common(rest[0][::-1], rest[1][::-1])
        self._add("".join(words[0][:start]), "".join(words[1][:start]), only=False)
        self._middle(rest[0][: len(rest[0]) - end], rest[1][: len(rest[1]) - end])
        self._add("".join(rest[0][len(rest[0]) - end :]), "".join(rest[1][len(rest[1]) - end :]), only=False)
        return self._sides

    def _middle(self, one: Sequence[str], two: Sequence[str]) -> None:
        matcher = _Matcher(_keys(one), _keys(two), self._budget)
        if matcher.cost(0, len(one)) * _STRETCHES <= self._budget:
            self._blocks(matcher, one, two, finer=False)
            return
        sentences = _SENTENCES.findall("".join(one)), _SENTENCES.findall("".join(two))
        matcher = _Matcher(_keys(sentences[0]), _keys(sentences[1]), self._budget)
        self._blocks(matcher, *sentences, finer=True)

    def _blocks(self, matcher: _Matcher, one: Sequence[str], two: Sequence[str], *, finer: bool) -> None:
        blocks = matcher.get_matching_blocks()
        self._budget = matcher.left
        at_one = at_two = 0
        for block in blocks:
            gap = "".join(one[at_one : block.a]), "".join(two[at_two : block.b])
            if finer and all(gap):
                words = _WORDS.findall(gap[0]), _WORDS.findall(gap[1])
                self._blocks(_Matcher(_keys(words[0]), _keys(words[1]), self._budget), *words, finer=False)
            else:
                self._add(*gap, only=True)
            at_one, at_two = block.a + block.size, block.b + block.size
            self._add("".join(one[block.a : at_one]), "".join(two[block.b : at_two]), only=False)

    def _add(self, left: str, right: str, *, only: bool) -> None:
        for pieces, text in zip(self._sides, (left, right), strict=True):
            if not text:
                continue
            if pieces and pieces[-1].only == only:
                pieces[-1] = Piece(pieces[-1].text + text, only)
            else:
                pieces.append(Piece(text, only))


def _keys(tokens: Sequence[str]) -> list[str]:
    """What is compared of tokens."""
    return [token.strip() for token in tokens]


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the common beginning."""
    count = 0
    for first, second in zip(one, two, strict=False):
        if first.strip() != second.strip():
            break
        count += 1
    return count
