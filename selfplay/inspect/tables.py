"""Pages of a committed table: single columns are read to find rows, and of those rows only the row groups they lie in.

A round may hold millions of rows, so nothing here loads a table whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfplay.store.run import Store


def take_rows(
    store: Store, round_number: int, stage: str, rows: Sequence[int], columns: list[str] | None = None
) -> pa.Table:
    """The rows with these numbers (counted over all shards in order), in the order asked for; `columns` None: all."""
    folder = store.layout.stage(round_number, stage)
    entries = [
        entry
        for entry in store.commit_of(round_number, stage).files
        if entry.rows is not None and "/" not in entry.path
    ]
    wanted = np.asarray(rows, dtype=np.int64)
    first = 0
    pieces, numbers = [], []
    for entry in sorted(entries, key=lambda entry: entry.path):
        with pq.ParquetFile(folder / entry.path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                inside = np.unique(wanted[(wanted >= first) & (wanted < first + count)])
                if len(inside):
                    pieces.append(file.read_row_group(group, columns=columns).take(pa.array(inside - first)))
                    numbers.append(inside)
                first += count
    if not pieces:
        return store.table(round_number, stage, columns=columns).slice(0, 0)
    found = pa.concat_tables(pieces)
    position = {int(number): index for index, number in enumerate(np.concatenate(numbers))}
    return found.take(pa.array([position[int(number)] for number in wanted]))


def column_names(store: Store, round_number: int, stage: str, table: str = "") -> list[str]:
    """The columns of a committed table as it was written; empty where the stage has no such table."""
    entries = [
        entry
        for entry in store.commit_of(round_number, stage).files
        if entry.rows is not None and entry.path.rpartition("/")[0] == table
    ]
    if not entries:
        return []
    return list(pq.read_schema(store.layout.stage(round_number, stage) / min(entry.path for entry in entries)).names)


def rows_where(store: Store, round_number: int, stage: str, column: str, values: Sequence[str]) -> list[int]:
    """Numbers of the rows whose `column` is one of `values`."""
    found = store.table(round_number, stage, columns=[column])[column]
    mask = pc.is_in(found, value_set=pa.array(list(values), pa.string()))
    return [int(number) for number in np.flatnonzero(mask.to_numpy())]
