"""Numbers of rows, column by column: what both ways of reading (row by row, and whole columns) end in.

Arrays are of P rows; null is a mask beside the array, so that narrow types stay as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.dataset_selection.reading.column_names import SIDED_NUMBERS
from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.dataset import BadRow, BadRowLog
from selfplay.inputs.row_reader import Source
from selfplay.selection.arrays import Bools

MOST_TOKENS = 2**31 - 1
TOKEN_COUNTS = ("num_tokens", "num_prompt_tokens", "num_tokens_chosen", "num_tokens_rejected")

Place = Callable[[int], tuple[str, int]]
"""The file of a row, and its number there, by its position among all rows."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column: values (anything where null) and where it is null (None: nowhere)."""

    values: np.ndarray[Any, Any]
    null_P: Bools | None


def is_strict(ours: str) -> bool:
    """Whether a row needs the number wherever its column is there. A metric's own further inputs may be null: it
    cannot rank such a row and selection says so."""
    return ours in SIDED_NUMBERS or ours in ("reward", "policy_logp", "reference_logp", "num_tokens")


def check_numbers(
    columns: Mapping[str, Numbers], names: Mapping[str, str], log: BadRowLog, place: Place, notes: list[str]
) -> tuple[dict[str, np.ndarray[Any, Any]], Bools | None]:
    """The columns that are not all null, and the rows that are good (None: all). A bad row is logged once, with its
    first column that is at fault.

    Bad: null, not finite, and numbers of tokens that are not whole numbers from 1 to 2^31 - 1. In columns that are not
    strict null becomes NaN and what is not finite stays.
    """
    good: Bools | None = None
    kept: dict[str, np.ndarray[Any, Any]] = {}
    for ours, column in columns.items():
        values, theirs = column.values, names[ours]
        if column.null_P is not None and bool(column.null_P.all()):
            notes.append(f"column {theirs!r} is null in every row: as though it were not there")
            continue
        kept[ours] = values if column.null_P is None else _with_nan(values, column.null_P)
        if not is_strict(ours):
            continue
        faults: list[tuple[str, str, Bools]] = []
        if column.null_P is not None:
            faults.append(("null_value", "is null", column.null_P))
        if values.dtype.kind == "f":
            finite_P = np.isfinite(values)
            if not finite_P.all():
                infinite_P = ~finite_P if column.null_P is None else ~finite_P & ~column.null_P
                faults.append(("not_finite", "is not finite", infinite_P))
        if ours.startswith("num_tokens"):
            whole_P = (values >= 1) & (values <= MOST_TOKENS)
            if values.dtype.kind == "f":
                whole_P &= values == np.floor(values)
            if not whole_P.all():
                faults.append(("bad_num_tokens", "is no whole number from 1 to 2^31 - 1", ~whole_P))
        elif "logp" in ours and len(values):
            _note_positive(ours, theirs, kept[ours], notes)
        for reason, said, fault_P in faults:
            fault_P = fault_P if good is None else fault_P & good
            rows = np.flatnonzero(fault_P)
            if len(rows):
                examples = [
                    BadRow(*place(int(row)), reason, f"column {theirs!r} {said}")
                    for row in rows[: log.EXAMPLES_OF_A_REASON]
                ]
                log.add_many(reason, len(rows), examples)
                good = ~fault_P if good is None else good & ~fault_P
    return kept, good


def good_rows(fields: Mapping[str, Any], good: Bools | None) -> pa.Table:
    """The columns as a table of the good rows; checked numbers of tokens as integers, each array of numbers in one
    piece."""
    columns = {}
    for ours, values in fields.items():
        if not isinstance(values, np.ndarray):
            columns[ours] = values if good is None else values.filter(pa.array(good))
            continue
        values = values if good is None else values[good]
        if ours in TOKEN_COUNTS and values.dtype.kind == "f" and _is_whole(values):
            values = values.astype(np.int64)
        columns[ours] = pa.array(values)
    return pa.table(columns)


def has_only_numbers(source: Source, columns: Columns) -> bool:
    """Whether a source can be read by whole columns: kept in columns, the same in every file, numbers as numbers."""
    if not source.is_arrow or columns.shape != "numbers" or "embedding" in columns.names:
        return False
    schemas = source.schemas()
    if any(schema.names != schemas[0].names for schema in schemas):
        return False
    return all(_is_number(schema.field(columns.names[ours]).type) for schema in schemas for ours in columns.numbers)


class NumberColumn:
    """One column of a known number of rows, filled piece by piece into one array. Integers and floats stay as narrow as
    they are kept."""

    def __init__(self, kinds: list[pa.DataType], num_rows: int) -> None:
        self._values = np.empty(num_rows, np.result_type(*(_dtype(kind) for kind in kinds)))
        self._null_P: Bools | None = None

    def fill(self, at: int, piece: pa.ChunkedArray) -> None:
        """Put the rows of `piece` from row `at` on."""
        for chunk in piece.chunks:
            part = slice(at, at + len(chunk))
            at += len(chunk)
            if chunk.null_count:
                if self._null_P is None:
                    self._null_P = np.zeros(len(self._values), np.bool_)
                self._null_P[part] = chunk.is_null().to_numpy(zero_copy_only=False)
                if pa.types.is_null(chunk.type):
                    self._values[part] = 0
                    continue
                chunk = chunk.fill_null(0)
            if pa.types.is_decimal(chunk.type):
                chunk = chunk.cast(pa.float64())
            self._values[part] = chunk.to_numpy(zero_copy_only=False)

    def done(self) -> Numbers:
        return Numbers(self._values, self._null_P)


def row_ids(count: int) -> pa.Array:
    """The numbers 1..count as texts of eight digits (more where they need more), so that their order is the rows'."""
    if count >= 10**8:
        return pc.utf8_lpad(pa.array(np.arange(1, count + 1)).cast(pa.large_string()), width=12, padding="0")
    quads = np.array([b"%04d" % quad for quad in range(10_000)], dtype="S4").view(np.uint32)
    number_P = np.arange(1, count + 1, dtype=np.uint32)
    digits = np.empty((count, 2), np.uint32)
    np.take(quads, number_P // 10_000, out=digits[:, 0])
    np.take(quads, number_P % 10_000, out=digits[:, 1])
    offsets = np.arange(0, 8 * count + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


def all_differ(ids: pa.ChunkedArray) -> bool:
    """Whether no id is there twice and none is null. Ids in rising order, the common case, are not hashed."""
    if ids.null_count:
        return False
    ends: list[Any] = []
    for chunk in ids.chunks:
        if len(chunk) > 1 and not pc.all(pc.less(chunk[:-1], chunk[1:])).as_py():
            break
        if len(chunk):
            if ends and not ends[-1] < chunk[0].as_py():
                break
            ends.append(chunk[-1].as_py())
    else:
        return True
    return bool(pc.count_distinct(ids).as_py() == len(ids))


def _is_whole(values: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(values).all() and (values == np.floor(values)).all())


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return np.dtype(np.float64)
    return np.dtype(cast(type, kind.to_pandas_dtype()))


def _with_nan(values: np.ndarray[Any, Any], null_P: Bools) -> np.ndarray[Any, Any]:
    filled = values.astype(np.result_type(values.dtype, np.float32) if values.dtype.kind == "f" else np.float64)
    filled[null_P] = np.nan
    return filled


def _note_positive(ours: str, theirs: str, values: np.ndarray[Any, Any], notes: list[str]) -> None:
    above = int(np.count_nonzero(values > 0))
    if above:
        notes.append(
            f"column {theirs!r} ({ours}) is above 0 in {above:,} rows: sums of log-probs are at most 0; is its sign turned?"
        )
