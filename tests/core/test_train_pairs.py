"""Pairs of a training job in a file."""

from __future__ import annotations

import copy
from pathlib import Path

from selfplay.core.protocols import TrainPair
from selfplay.core.train_pairs import SCHEMA, PairFile, pairs_table, write_pairs

PAIRS = [TrainPair(f"p{row}", [1, row], [2] * row + [3], [4], -1.5, -0.5 * row, None, -2.0) for row in range(5)]


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = pairs_table(PAIRS)
    found = write_pairs(tmp_path / "pairs.arrow", [table.slice(0, 2), table.slice(2)])
    assert list(found) == PAIRS and len(found) == 5 and found[-1] == PAIRS[-1] and found[1:3] == PAIRS[1:3]
    assert found.table.schema == SCHEMA and pairs_table(found) is found.table
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.arrow"]
    # another process gets the path alone
    sent = copy.copy(found)
    assert isinstance(sent, PairFile) and sent.__dict__ == {"path": found.path, "_table": None}
    assert list(sent) == PAIRS


def test_no_pairs(tmp_path: Path) -> None:
    assert list(write_pairs(tmp_path / "pairs.arrow", [])) == []
