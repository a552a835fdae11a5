"""A committed table as pages read it: columns of numbers and ids are kept in memory, texts are taken row by row or searched in
bounded steps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.inspect.query.where import Rows
from selfplay.inspect.viewer.cache import Cache
from selfplay.store.lazy_table import LazyTable, Part
from selfplay.store.run import Store

_IDS = ("prompt_id", "response_id", "pair_id")
# where more than one in so many row groups may hold an id, the whole column is read, once
_FEW = 4
_THREADS = min(len(os.sched_getaffinity(0)), 4)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row group: `first` is the number of its first row in the table, `group` its number in the file; `num_bytes` of each
    column as it is in memory, `bounds` the smallest and the largest of the columns of ids, where the file says them."""

    part: Part
    group: int
    first: int
    num_rows: int
    num_bytes: Mapping[str, int]
    bounds: Mapping[str, tuple[str, str]]

    def may_hold(self, name: str, values: Sequence[str]) -> bool:
        """Whether one of the values may be in the column of ids."""
        if name not in self.bounds:
            return True
        low, high = self.bounds[name]
        return any(low <= value <= high for value in values)


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
        """The rows whose id is one of the values. Tables are mostly in the order of their ids: where few row groups can hold
        the values, only these are read."""
        chunks = self.chunks()
        likely = [chunk for chunk in chunks if chunk.may_hold(name, values)]
        if len(likely) * _FEW > len(chunks):
            return _rows_in(self.column(name), values)
        found = [chunk.first + _rows_in(self._ids(chunk, name), values) for chunk in likely]
        return np.concatenate(found) if found else np.array([], dtype=np.int64)

    def _ids(self, chunk: Chunk, name: str) -> pa.ChunkedArray:
        key = (self.key, "ids", name, chunk.first)
        return self.cache.get(key, lambda: self.read_chunk(chunk, [name]).column(0))

    def chunks(self) -> list[Chunk]:
        """Row groups, in order."""
        return self.cache.get((self.key, "chunks"), lambda: list(self._chunks()), lambda chunks: 3000 * len(chunks))

    def _chunks(self) -> Iterator[Chunk]:
        for part in self.parts.parts:
            with self.parts.open(part) as file:
                first = part.first
                for group in range(file.num_row_groups):
                    described = file.metadata.row_group(group)
                    sizes: Counter[str] = Counter()
                    bounds: dict[str, tuple[str, str]] = {}
                    for index in range(described.num_columns):
                        column = described.column(index)
                        name = column.path_in_schema.partition(".")[0]
                        sizes[name] += column.total_uncompressed_size
                        if name in _IDS and column.statistics is not None and column.statistics.has_min_max:
                            bounds[name] = (column.statistics.min, column.statistics.max)
                    yield Chunk(part, group, first, described.num_rows, dict(sizes), bounds)
                    first += described.num_rows

    def read_chunk(self, chunk: Chunk, columns: Sequence[str]) -> pa.Table:
        """Columns of a row group."""
        with self.parts.open(chunk.part) as file:
            return file.read_row_group(chunk.group, columns=list(columns))


def row_set(store: Store, round_number: int, stage: str, cache: Cache, table: str = "") -> RowSet:
    """A table of a committed stage. Raises SelfplayError if it is missing."""
    key = f"{store.digest_of(round_number, stage)}/{table}"
    return RowSet(key, store.lazy_table(round_number, stage, table), cache)


def _rows_in(column: pa.ChunkedArray, values: Sequence[str]) -> Rows:
    return np.flatnonzero(pc.is_in(column, value_set=pa.array(list(values), column.type)).to_numpy())
