"""A committed table as its files: rows are taken from the row groups that hold them, and no table is loaded whole.

The rows in a file's footer are checked against the commit, and the checksums of the pages that are read. The digests of whole
files are checked where a table is used as an input (`Store.require`).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfplay.core.errors import CorruptionError
from selfplay.store import unfolding
from selfplay.store.commits import remedy
from selfplay.store.manifest import FileEntry
from selfplay.store.unfolding import MemoryBudget, UnfoldingError

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a table; `first` is the number of its first row in the table."""

    path: Path
    first: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class LazyTable:
    """The files of a table, in order. Nothing is opened before it is asked for. Every method raises CorruptionError where a
    file is not what its commit says."""

    folder: Path
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, folder: Path, files: Iterable[FileEntry], table: str = "") -> LazyTable:
        """The table in `folder` (of a stage, or of what `select` left) whose files lie under the name `table`."""
        found, first = [], 0
        for entry in sorted(files, key=lambda entry: entry.path):
            if entry.rows is not None and entry.path.rpartition("/")[0] == table:
                found.append(Part(folder / entry.path, first, entry.rows))
                first += entry.rows
        if not found:
            raise CorruptionError(f"{folder} has no table {table!r}", remedy(folder))
        return cls(folder, tuple(found))

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self.parts[-1].first + self.parts[-1].num_rows

    def schema(self) -> pa.Schema:
        """Columns and types, as the first file has them."""
        with self.open(self.parts[0]) as file:
            return plain_schema(file.schema_arrow)

    @contextmanager
    def open(self, part: Part) -> Iterator[Any]:
        """A part as a `pyarrow.parquet.ParquetFile`."""
        with self.reading(part), pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            self.check_rows(part, file.metadata.num_rows)
            yield file

    @contextmanager
    def reading(self, part: Part) -> Iterator[None]:
        """What fails while a part is read is damage of its file."""
        try:
            yield
        except UnfoldingError as error:
            raise CorruptionError(
                f"{part.path} is not read: {error}",
                "selfplay does not write such tables: do not trust the source of this run.",
            ) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorruptionError(f"{part.path} cannot be read ({error})", remedy(self.folder)) from None

    def check_rows(self, part: Part, num_rows: int) -> None:
        """Raise CorruptionError unless a part has the rows that its commit says."""
        if num_rows != part.num_rows:
            message = f"{part.path} has {num_rows} rows, its commit says {part.num_rows}"
            raise CorruptionError(message, remedy(self.folder))

    def read(self, part: Part, columns: Sequence[str] | None = None, budget: MemoryBudget | None = None) -> pa.Table:
        """These columns of one part, in this order; None: all. `budget` is that of several parts."""
        with self.open(part) as file:
            if columns is not None and (missing := sorted({*columns} - {*file.schema_arrow.names})):
                raise CorruptionError(f"{part.path} has no column {', '.join(missing)}", remedy(self.folder))
            budget = budget or MemoryBudget([part.path])
            wanted = None if columns is None else list(columns)
            pieces = [file.schema_arrow.empty_table()] if not file.num_row_groups else []
            for group in range(file.num_row_groups):
                pieces.append(_read_row_group(part, file, group, wanted, budget))
            found = pa.concat_tables(pieces)
            return plain(found if wanted is None else found.select(wanted))

    def check_size(self, columns: Sequence[str] | None = None) -> None:
        """Raise CorruptionError where a row group of these columns (None: all) takes too much memory: before DuckDB reads."""
        for part in self.parts:
            with self.open(part) as file:
                for group in range(file.num_row_groups):
                    MemoryBudget([part.path]).check_row_group(part.path, file.metadata, group, columns)

    def read_all(self, columns: Sequence[str] | None = None) -> pa.Table:
        """These columns of every part; None: all."""
        budget = self.budget()
        return pa.concat_tables([self.read(part, columns, budget) for part in self.parts])

    def budget(self) -> MemoryBudget:
        """What may be read of the table at once."""
        with self.reading(self.parts[0]):
            return MemoryBudget([part.path for part in self.parts])

    def part_of(self, row: int) -> Part:
        """The part that holds the row with this number."""
        return self.parts[bisect.bisect_right(self.parts, row, key=lambda part: part.first) - 1]

    def split(self, rows: Ints) -> Iterator[tuple[Part, Ints]]:
        """Row numbers, each once and ascending, by the part that holds them."""
        assert not len(rows) or (rows[0] >= 0 and rows[-1] < self.num_rows), "a row that the table does not have"
        start = 0
        while start < len(rows):
            part = self.part_of(int(rows[start]))
            end = int(np.searchsorted(rows, part.first + part.num_rows))
            yield part, rows[start:end]
            start = end

    def sample(self, columns: Sequence[str], num_rows: int) -> pa.Table:
        """These columns of about `num_rows` rows, at least: whole row groups spread evenly over the table. All of it where it
        has no more."""
        if self.num_rows <= num_rows:
            return self.read_all(columns)
        budget = self.budget()
        every, pieces, due = self.num_rows / num_rows, [], 0.0
        for part in self.parts:
            with self.open(part) as file:
                for group, first, described in _row_groups(file, part):
                    if first + described.num_rows > due:
                        pieces.append(plain(_read_row_group(part, file, group, list(columns), budget)))
                        due += every * described.num_rows
        return pa.concat_tables(pieces)

    def rows_where(self, column: str, values: Sequence[str]) -> Ints:
        """Numbers of the rows whose text `column` is one of `values`, ascending. Row groups whose statistics exclude the values
        are not read: of a table in the order of that column it is one."""
        wanted = pa.array(list(values), pa.string())

        def in_part(part: Part) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
            found = []
            with self.open(part) as file:
                leaf = [file.schema.column(index).path for index in range(len(file.schema))].index(column)
                for group, first, described in _row_groups(file, part):
                    if _may_hold(described.column(leaf).statistics, values):
                        MemoryBudget([part.path]).check_row_group(part.path, file.metadata, group, [column])
                        read = file.read_row_group(group, columns=[column], use_threads=False).column(0)
                        found.append(first + np.flatnonzero(pc.is_in(read, value_set=wanted)))
            return found

        with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), len(self.parts))) as threads:
            pieces = [piece for found in threads.map(in_part, self.parts) for piece in found]
        return np.concatenate(pieces) if pieces else np.array([], dtype=np.int64)

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these numbers, in the order asked for; `columns` None: all. Of each file only the row groups that
        hold one of them are read."""
        return RowReader(self, columns).take(rows)

    def row_groups(self, rows: Ints, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows with these ascending numbers, one table for each row group that holds some of them."""
        reader = RowReader(self, columns)
        for part, inside in self.split(rows):
            yield from reader.take_part(part, inside)


def _read_row_group(part: Part, file: Any, group: int, columns: list[str] | None, budget: MemoryBudget) -> pa.Table:
    budget.check_row_group(part.path, file.metadata, group, columns)
    read = file.read_row_group(group, columns=columns, use_threads=False)
    budget.charge_table(read)
    return read


class RowReader:
    """Takes rows of a table by number. The row group that was read last stays in memory, so that calls for one row after the
    other read each row group once."""

    def __init__(self, table: LazyTable, columns: Sequence[str] | None = None) -> None:
        self.table = table
        self._names = None if columns is None else list(columns)
        # the part that was read last, with the first row of each of its row groups and the row after them
        self._starts: tuple[Part, Ints] | None = None
        self._group: tuple[Part, int, pa.Table] | None = None

    def take(self, rows: Sequence[int] | Ints) -> pa.Table:
        """The rows with these numbers, in the order asked for. Raises CorruptionError."""
        wanted = np.asarray(rows, dtype=np.int64)
        different = np.unique(wanted)
        if not len(different):
            shape = self.table.schema().empty_table()
            return shape if self._names is None else shape.select(self._names)
        taken, pieces = 0, []
        for part, inside in self.table.split(different):
            with self.table.reading(part):
                for piece in self.take_part(part, inside):
                    taken += piece.nbytes
                    pieces.append(piece)
                    if taken > unfolding.MAX_BYTES:
                        self.table.budget().charge(taken)
        found = pa.concat_tables(pieces)
        if len(wanted) == len(different) and (wanted == different).all():
            return found
        # `different` is ascending, so that the place of each row is found by bisection
        return found.take(pa.array(np.searchsorted(different, wanted)))

    def take_part(self, part: Part, rows: Ints) -> Iterator[pa.Table]:
        """These ascending rows of one part, one table for each row group."""
        with ExitStack() as stack:
            file: Any = None
            if self._starts is None or self._starts[0] != part:
                file = stack.enter_context(self.table.open(part))
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                self._starts = part, part.first + np.cumsum([0, *sizes], dtype=np.int64)
            starts = self._starts[1]
            cuts = np.searchsorted(rows, starts)
            for group in np.flatnonzero(np.diff(cuts)).tolist():
                if self._group is None or self._group[:2] != (part, group):
                    file = file or stack.enter_context(self.table.open(part))
                    MemoryBudget([part.path]).check_row_group(part.path, file.metadata, group, self._names)
                    read = file.read_row_group(group, columns=self._names, use_threads=False)
                    self._group = part, group, plain(read if self._names is None else read.select(self._names))
                yield self._group[2].take(pa.array(rows[cuts[group] : cuts[group + 1]] - starts[group]))


def plain(table: pa.Table) -> pa.Table:
    """The table without what its file says about itself beside names and types: metadata would have `datasets` decode texts as
    addresses of images, and pandas rename columns."""
    if not _has_metadata(table.schema):
        return table
    return pa.Table.from_arrays(table.columns, schema=plain_schema(table.schema))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without metadata, also that of its fields."""
    return pa.schema([field.remove_metadata() for field in schema]) if _has_metadata(schema) else schema


def _has_metadata(schema: pa.Schema) -> bool:
    return schema.metadata is not None or any(field.metadata is not None for field in schema)


def _row_groups(file: Any, part: Part) -> Iterator[tuple[int, int, Any]]:
    """Index, number of the first row in the table, and metadata of each row group of an open part."""
    first = part.first
    for group in range(file.num_row_groups):
        described = file.metadata.row_group(group)
        yield group, first, described
        first += described.num_rows


def _may_hold(statistics: Any, values: Sequence[str]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= value <= statistics.max for value in values)
