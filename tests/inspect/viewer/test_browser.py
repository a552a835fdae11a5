"""A pair as the browser shows it."""

from __future__ import annotations

from selfplay.inspect.viewer.browser import card, clipped
from selfplay.inspect.viewer.word_diff import DiffSpan


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_marks_are_those_of_the_whole_texts() -> None:
    """A word that is cut off in one text only is in both: it is no difference."""
    common = "one two three four five six seven eight"
    pair = {"pair_id": "a", "chosen": turn(f"zero {common}"), "rejected": turn(common)}
    found = card(pair, diff=True, clip=20)
    assert found.chosen is not None and found.rejected is not None
    assert [piece.text for piece in found.chosen.pieces if piece.only] == ["zero "]
    assert not [piece for piece in found.rejected.pieces if piece.only]
    for side, text in ((found.chosen, f"zero {common}"), (found.rejected, common)):
        assert "".join(piece.text for piece in side.pieces) == text[:20]
        assert side.left_out == len(text) - 20


def test_a_cut_within_a_piece() -> None:
    pieces = [DiffSpan("abc", False), DiffSpan("def", True), DiffSpan("ghi", False)]
    assert clipped(pieces, 4) == [DiffSpan("abc", False), DiffSpan("d", True)]
    assert clipped(pieces, 3) == [DiffSpan("abc", False)]
    assert clipped(pieces, 0) == []
