"""Pages of a committed table: single columns are read to find rows, and of those rows only the row groups they lie in.

A round may hold millions of rows, so nothing here loads a table whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.store.lazy_table import Parts
from selfplay.store.run import Store


def take_rows(
    store: Store, round_number: int, stage: str, rows: Sequence[int], columns: list[str] | None = None
) -> pa.Table:
    """The rows with these numbers (counted over all shards in order), in the order asked for; `columns` None: all."""
    return _parts(store, round_number, stage).take(rows, columns)


def column_names(store: Store, round_number: int, stage: str, table: str = "") -> list[str]:
    """The columns of a committed table as it was written; empty where the stage has no such table."""
    files = store.commit_of(round_number, stage).files
    if not any(entry.rows is not None and entry.path.rpartition("/")[0] == table for entry in files):
        return []
    return list(Parts.of(store.layout.stage(round_number, stage), files, table).schema().names)


def rows_where(store: Store, round_number: int, stage: str, column: str, values: Sequence[str]) -> list[int]:
    """Numbers of the rows whose `column` is one of `values`. Of a table in the order of that column one file is read."""
    wanted = pa.array(list(values), pa.string())
    parts = _parts(store, round_number, stage)
    found: list[int] = []
    for part in parts.parts:
        if parts.may_hold(part, column, values):
            mask = pc.is_in(parts.read(part, [column]).column(0), value_set=wanted)
            found += (part.first + np.flatnonzero(mask.to_numpy())).tolist()
    return found


def _parts(store: Store, round_number: int, stage: str) -> Parts:
    return Parts.of(store.layout.stage(round_number, stage), store.commit_of(round_number, stage).files)
