"""Texts of a column without all of them as Python objects."""

from __future__ import annotations

import pyarrow as pa

from selfplay.dataset_selection.turn_texts import ColumnTexts, TurnTexts
from selfplay.inputs.rows.tables import MESSAGES


def turns(*texts: str) -> pa.Array:
    return pa.array([[{"role": "assistant", "content": text}] for text in texts], MESSAGES)


def test_as_a_sequence() -> None:
    column = pa.chunked_array([turns("a", "b"), turns(), turns("c", "", "é"), turns("d")]).slice(1)
    texts = TurnTexts(column)
    assert list(texts) == [texts[row] for row in range(len(texts))] == ["b", "c", "", "é", "d"]
    assert texts[1:3] == ["c", ""]
    assert len(TurnTexts(pa.chunked_array([], MESSAGES))) == 0


def test_equal_texts_have_equal_codes() -> None:
    column = ["b", "a", "", "b", "b ", "a", "\x00", "", "é"]
    codes = ColumnTexts(pa.chunked_array([column[:4], [], column[4:]])).codes().tolist()
    assert [[one == other for other in codes] for one in codes] == [
        [one == other for other in column] for one in column
    ]
    assert ColumnTexts(pa.chunked_array([], pa.string())).codes().tolist() == []
