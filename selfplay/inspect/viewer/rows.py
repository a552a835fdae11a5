"""A committed table as pages read it: columns of numbers and ids are kept in memory, texts are read where they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.inspect.query.where import Rows
from selfplay.inspect.viewer.cache import Cache
from selfplay.store.lazy_table import LazyTable
from selfplay.store.run import Store

_THREADS = min(len(os.sched_getaffinity(0)), 4)


@dataclass(frozen=True)
class RowSet:
    """Rows of a table under a key that no other content has."""

    key: str
    parts: LazyTable
    cache: Cache

    @property
    def num_rows(self) -> int:
        return self.parts.num_rows

    @property
    def schema(self) -> pa.Schema:
        """Columns and types."""
        return self.cache.get((self.key, "schema"), self.parts.schema, lambda schema: 100 * len(schema))

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as a whole: for numbers and ids, not for texts."""
        return self.cache.get((self.key, "column", name), lambda: self._read(name))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Columns as a whole."""
        return pa.table({name: self.column(name) for name in names})

    def numbers(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A column of numbers or flags; NaN for NULL."""
        return self.cache.get(
            (self.key, "numbers", name),
            lambda: np.asarray(self.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64),
        )

    def _read(self, name: str) -> pa.ChunkedArray:
        pieces = [self.parts.read(part, [name]).column(0) for part in self.parts.parts]
        return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pieces[0].type)

    def take(self, rows: Sequence[int] | Rows, columns: Sequence[str] | None = None) -> pa.Table:
        """These rows, in this order; row groups far from each other are read in threads."""
        wanted = np.asarray(rows, dtype=np.int64)
        ascending = np.argsort(wanted, kind="stable")
        shares = np.array_split(wanted[ascending], min(_THREADS, max(len(wanted) // 2, 1)))
        if len(shares) == 1:
            return self.parts.take(wanted, columns)
        with ThreadPoolExecutor(len(shares)) as threads:
            taken = pa.concat_tables(threads.map(lambda share: self.parts.take(share, columns), shares))
        place = np.empty_like(ascending)
        place[ascending] = np.arange(len(ascending))
        return taken.take(pa.array(place))

    def rows_of(self, name: str, values: Sequence[str]) -> Rows:
        """The rows whose id is one of the values."""
        if not self.cache.has((self.key, "column", name)):
            return self.parts.rows_where(name, values)
        return np.flatnonzero(pc.is_in(self.column(name), value_set=pa.array(list(values), pa.string())).to_numpy())


def row_set(store: Store, round_number: int, stage: str, cache: Cache) -> RowSet:
    """The table of a committed stage. Raises SelfplayError if it is missing."""
    return RowSet(store.digest_of(round_number, stage), store.lazy_table(round_number, stage), cache)
