"""Computes how much memory the content of a file takes before it is read.

A file of some kilobytes may hold gigabytes: text that is compressed, and a value of a Parquet dictionary that many rows repeat.
What is read at once may take MAX_BYTES, or MAX_RATIO times the size of its file where that is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_BYTES = 512 << 20
MAX_RATIO = 100

# a bound below this, or below so many times what there is for certain, is good enough: the exact number is not looked for
_CLOSE, _NEAR = MAX_BYTES // 8, 2
_WIDTH = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_TEXT = "BYTE_ARRAY"
# of values that share their beginnings: what it holds says little of what it unfolds to
_DELTA = "DELTA_BYTE_ARRAY"


class UnfoldingError(ValueError):
    """Content that takes more memory than may be used for it; the text says how much, and how much is allowed."""


class MemoryBudget:
    """What may be read from these files at once. What has been read is counted by `charge` and `charge_table`. They, and
    `check_row_group` before a row group is read, raise UnfoldingError when it is exceeded."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.limit = max(MAX_BYTES, MAX_RATIO * sum(path.stat().st_size for path in files))
        self._used = 0

    def charge(self, num_bytes: int) -> None:
        """Count bytes."""
        self._used += num_bytes
        self._check(self._used)

    def charge_table(self, table: pa.Table) -> None:
        """Count what the values of a table take one by one: a repeated value of a dictionary is as many values."""
        self.charge(sum(_decoded_bytes(chunk) for column in table.columns for chunk in column.chunks))

    def check_row_group(
        self, source: Any, metadata: pq.FileMetaData, group: int, columns: Sequence[str] | None
    ) -> None:
        """Look whether there is room for these columns (None: all) of a row group of a Parquet file (its path, or a reader of its
        bytes). Nothing is counted: what is known of a small row group before it is read may be a hundred times what it takes."""
        self._check(self._used + _row_group_bytes(source, metadata, group, columns, self.limit))

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.limit:
            raise UnfoldingError(
                f"it unfolds to {num_bytes / 1e9:.1f} GB or more; {self.limit / 1e9:.1f} GB are allowed for a file of its size"
            )


def _row_group_bytes(
    source: Any, metadata: pq.FileMetaData, group: int, columns: Sequence[str] | None, limit: int
) -> int:
    """At least the bytes that the values of a row group take, and not many more where they are many. Of a group that is too large
    for `limit` it is any number above it."""
    described = metadata.row_group(group)
    chunks, fixed = [], 0
    for index in range(described.num_columns):
        chunk = described.column(index)
        if columns is None or any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns):
            chunks.append(chunk)
            if chunk.physical_type != _TEXT:
                width = _WIDTH.get(chunk.physical_type) or metadata.schema.column(index).length
                fixed += chunk.num_values * width
    texts = [chunk for chunk in chunks if chunk.physical_type == _TEXT]
    stored: int = sum(chunk.total_uncompressed_size for chunk in chunks)
    bound: int = fixed + sum(chunk.num_values * (chunk.total_uncompressed_size + 8) for chunk in texts)
    if bound <= _CLOSE or max(stored, fixed) > limit:
        return max(bound, stored)
    leaves = [chunk.path_in_schema for chunk in texts]
    if any(_DELTA in chunk.encodings for chunk in texts):
        return fixed + _streamed_bytes(source, metadata, group, leaves, stored, limit)
    with pq.ParquetFile(source, metadata=metadata, read_dictionary=leaves, pre_buffer=False) as file:
        # with its first row comes the whole dictionary of a column
        first = next(file.iter_batches(batch_size=1, row_groups=[group], columns=leaves), None)
        longest = [_longest(values) for values in _dictionaries(first)] if first is not None else []
        if len(longest) == len(texts) and None not in longest:
            pairs = zip(texts, longest, strict=True)
            bound = fixed + sum(
                chunk.num_values * (each + 8) + chunk.total_uncompressed_size
                for chunk, each in pairs
                if each is not None
            )
            certain = fixed + sum(chunk.total_uncompressed_size for chunk in texts)
            if bound <= max(_CLOSE, _NEAR * certain):
                return bound
        read = file.read_row_group(group, columns=leaves, use_threads=False)
    return fixed + sum(_decoded_bytes(chunk) for column in read.columns for chunk in column.chunks)


def _streamed_bytes(
    source: Any, metadata: pq.FileMetaData, group: int, leaves: list[str], stored: int, limit: int
) -> int:
    """What these columns take, read so few rows at a time that these fit, until it is above `limit`."""
    total = 0
    with pq.ParquetFile(source, metadata=metadata) as file:
        rows = max(_CLOSE // max(stored, 1), 1)
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=leaves, use_threads=False):
            total += batch.nbytes
            if total > limit:
                break
    return total


def _dictionaries(batch: pa.RecordBatch) -> list[pa.Array]:
    """The dictionaries of the texts of a batch, one for each leaf of its columns, in their order."""
    found: list[pa.Array] = []

    def look(array: pa.Array) -> None:
        if pa.types.is_dictionary(array.type):
            found.append(array.dictionary)
        elif pa.types.is_struct(array.type):
            for index in range(array.type.num_fields):
                look(array.field(index))
        elif _has_values(array.type):
            look(array.values)

    for column in batch.columns:
        look(column)
    return found


def _longest(values: pa.Array) -> int | None:
    """Bytes of the longest value; None where there is none: the column's dictionary was not looked at."""
    longest: int | None = pc.max(pc.binary_length(values)).as_py()
    return longest


def _has_values(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_map(kind)
    )


def _decoded_bytes(array: Any) -> int:
    """Bytes of the values of an array one by one."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        sizes = _value_sizes(array.dictionary)
        return 8 * len(array) + int(pc.sum(sizes.take(array.indices)).as_py() or 0)
    if pa.types.is_run_end_encoded(kind):
        return len(array) * (8 + int(pc.max(_value_sizes(array.values)).as_py() or 0))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return sum(
            8 + (value.as_buffer().size if value.is_valid else 0) for value in array
        )  # there is no kernel for views
    if pa.types.is_struct(kind):
        return sum(_decoded_bytes(array.field(index)) for index in range(kind.num_fields))
    if _has_values(kind):
        return 8 * len(array) + _decoded_bytes(array.values)
    return int(array.nbytes)


def _value_sizes(values: Any) -> Any:
    kind = values.type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return pc.cast(pc.binary_length(values), pa.int64())
    return pa.array([values.slice(at, 1).nbytes for at in range(len(values))], pa.int64())
