"""Word differences: nothing of a text is lost, and no text takes long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.inspect.viewer import word_diff as words
from selfplay.inspect.viewer.word_diff import Piece, word_diff


def test_words_that_only_one_has() -> None:
    left, right = word_diff("The cat sat down.", "The dog sat down quietly.")
    assert left == [Piece("The ", False), Piece("cat ", True), Piece("sat down.", False)]
    assert right == [
        Piece("The ", False), Piece("dog ", True), Piece("sat down ", False), Piece("quietly", True), Piece(".", False),
    ]  # fmt: skip


def test_the_same_and_nothing() -> None:
    assert word_diff("a b", "a b") == ([Piece("a b", False)], [Piece("a b", False)])
    assert word_diff("", "") == ([], [])
    assert word_diff("", "x y") == ([], [Piece("x y", True)])
    # white space between words is not compared
    assert word_diff("a  b", "a b") == ([Piece("a  b", False)], [Piece("a b", False)])


_TEXT = st.text(st.sampled_from("ab .\n<é\u202e\U0001f469\u200d"), max_size=60)


@settings(max_examples=150, deadline=None)
@given(_TEXT, _TEXT, st.integers(0, 400))
def test_no_character_is_lost_and_what_is_shared_is_the_same(left: str, right: str, budget: int) -> None:
    sides = word_diff(left, right, budget)
    assert ["".join(piece.text for piece in side) for side in sides] == [left, right]
    shared = ["".join("".join(piece.text for piece in side if not piece.only).split()) for side in sides]
    assert shared[0] == shared[1]
    assert all(piece.text for side in sides for piece in side)


def prose(count: int, seed: int) -> str:
    generator = random.Random(seed)
    vocabulary = [f"w{index}" for index in range(2000)]
    weights = [1 / (index + 1) for index in range(2000)]
    return " ".join(generator.choices(vocabulary, weights, k=count))


HUGE = {
    "prose": (prose(20_000, 0), prose(20_000, 1)),
    "one word": ("a " * 50_000, "b " + "a " * 49_999 + "c"),
    "a pattern": ("a b c " * 5000, "c b a " * 5000),
    "lines": ("\n" * 100_000, "\n" * 99_999 + "x"),
    "signs": ("<" * 100_000, ">" * 100_000),
    "no space": ("x" * 100_000, "x" * 99_999 + "y"),
    "sentences": ("Yes. No. " * 10_000, "No. Yes. " * 10_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_work_is_bounded_whatever_the_texts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what the matcher is asked to look at stays within the budget."""
    spent = 0
    find = words.difflib.SequenceMatcher.find_longest_match

    def counted(
        self: words._Matcher, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> object:
        nonlocal spent
        assert ahi is not None
        spent += self.cost(alo, ahi)
        return find(self, alo, ahi, blo, bhi)

    monkeypatch.setattr(words.difflib.SequenceMatcher, "find_longest_match", counted)
    left, right = HUGE[name]
    sides = word_diff(left, right)
    assert ["".join(piece.text for piece in side) for side in sides] == [left, right]
    assert spent <= words.BUDGET


def test_a_long_text_with_small_changes_is_not_one_difference() -> None:
    sentences = [f"This is sentence {index} of {prose(8, index)}." for index in range(3000)]
    changed = list(sentences)
    changed[10], changed[2900] = "Something else stands here.", sentences[2900].replace("sentence", "phrase")
    left, right = word_diff(" ".join(sentences), " ".join(changed))
    assert sum(len(piece.text) for piece in left if piece.only) < 400
    assert any(piece.only and "phrase" in piece.text for piece in right)
