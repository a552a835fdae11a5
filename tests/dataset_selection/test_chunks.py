"""Rows gathered out of columns that are kept in many pieces."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from selfplay.dataset_selection.chunks import taken

VALUES = st.one_of(st.none(), st.text(max_size=3))


@given(chunks=st.lists(st.lists(VALUES, max_size=5), max_size=6), data=st.data())
def test_rows_come_in_the_order_asked_for(chunks: list[list[str | None]], data: st.DataObject) -> None:
    column = pa.chunked_array(chunks, pa.string())
    rows = data.draw(st.lists(st.integers(0, len(column) - 1), max_size=12)) if len(column) else []
    for order in (rows, sorted(rows)):
        found = taken(column, np.array(order, dtype=np.int64))
        assert found.to_pylist() == [column[row].as_py() for row in order]
        assert isinstance(found, pa.Array)


def test_lists_of_messages_are_taken_as_they_are() -> None:
    turn = [{"role": "user", "content": "a"}]
    column = pa.chunked_array([pa.array([turn, []]), pa.array([[*turn, *turn]])])
    assert taken(column, np.array([2, 0, 1])).to_pylist() == [[*turn, *turn], turn, []]
