"""Rows of a table that is never loaded whole, against the table."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.store.lazy_table import LazyTable, Part, RowReader

TABLE = pa.table({"number": range(50), "text": [f"row {row}" for row in range(50)]})
CUTS = (0, 7, 8, 30, 50)


@pytest.fixture
def lazy(tmp_path: Path) -> LazyTable:
    """TABLE in four files with row groups of three rows."""
    parts = []
    for first, end in itertools.pairwise(CUTS):
        path = tmp_path / f"part-{first:05d}.parquet"
        pq.write_table(TABLE.slice(first, end - first), path, row_group_size=3)
        parts.append(Part(path, first, end - first))
    return LazyTable(tmp_path, tuple(parts))


def test_rows_in_any_order_and_more_than_once(lazy: LazyTable) -> None:
    generator = np.random.default_rng(0)
    for num in (0, 1, 5, 60):
        rows = generator.integers(50, size=num)
        assert lazy.take(rows).equals(TABLE.take(pa.array(rows, pa.int64())))
        assert lazy.take(rows, ["text"])["text"].to_pylist() == [f"row {row}" for row in rows]
    assert lazy.read_all(["text", "number"]).equals(TABLE.select(["text", "number"]))


def test_a_row_group_is_read_once_for_rows_one_after_the_other(lazy: LazyTable, monkeypatch: Any) -> None:
    opened: list[Part] = []
    real = LazyTable.open

    def counted(self: LazyTable, part: Part) -> Any:
        opened.append(part)
        return real(self, part)

    monkeypatch.setattr(LazyTable, "open", counted)
    reader = RowReader(lazy, ["number"])
    found = [reader.take(range(row, row + 1))["number"].to_pylist() for row in range(50)]
    assert found == [[row] for row in range(50)]
    assert len(opened) == sum(-(-(end - first) // 3) for first, end in itertools.pairwise(CUTS))


def test_what_the_table_does_not_have(lazy: LazyTable) -> None:
    with pytest.raises(AssertionError, match="does not have"):
        lazy.take([50])
    with pytest.raises(CorruptionError, match="has no column nothing"):
        lazy.read_all(["number", "nothing"])
