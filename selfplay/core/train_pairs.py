"""The pairs of a training job in a file: the driver writes them in blocks, the trainer maps the file into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from selfplay.core.protocols import TrainPair
from selfplay.core.records import schema

SCHEMA = schema(TrainPair)
_ROWS_AT_ONCE = 1_000


class PairFile(Sequence[TrainPair]):
    """The pairs of a file that `write_pairs` wrote. Only the path is pickled, so that a job with a million pairs is as small as
    one with ten; each process maps the file into its own memory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._table: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The pairs as columns (SCHEMA), mapped and not read."""
        if self._table is None:
            self._table = pa.ipc.open_file(pa.memory_map(self.path)).read_all()
        return self._table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, row: int) -> TrainPair: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[TrainPair]: ...

    def __getitem__(self, row: int | slice) -> TrainPair | Sequence[TrainPair]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        (values,) = self.table.slice(range(len(self))[row], 1).to_pylist()
        return TrainPair(**values)

    def __iter__(self) -> Iterator[TrainPair]:
        for batch in self.table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for values in batch.to_pylist():
                yield TrainPair(**values)

    def close(self) -> None:
        """Forget the mapped file: before it is removed (a network file system keeps a file that is mapped)."""
        self._table = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_table": None}


def write_pairs(path: Path, blocks: Iterable[pa.Table]) -> PairFile:
    """Write blocks of pairs (SCHEMA) to a file, which must not be mapped by another process. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for block in blocks:
            writer.write_table(block.cast(SCHEMA))
    partial.replace(path)
    return PairFile(str(path))


def pairs_table(pairs: Sequence[TrainPair]) -> pa.Table:
    """Pairs as columns (SCHEMA)."""
    if isinstance(pairs, PairFile):
        return pairs.table
    return pa.Table.from_pylist([{name: getattr(pair, name) for name in SCHEMA.names} for pair in pairs], schema=SCHEMA)
