"""Columns of numbers: the check that both ways of reading end in, and tables of numbers read by whole columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.inputs.rows.bad_rows import BadRow, BadRowLog
from selfplay.inputs.rows.columns import Columns
from selfplay.inputs.rows.roles import SIDED_NUMBERS
from selfplay.inputs.rows.source import Source
from selfplay.inputs.rows.tables import json_rows, row_ids
from selfplay.inputs.rows.values import group_name
from selfplay.selection.arrays import Bools
from selfplay.store.spool import Spool

MOST_TOKENS = 2**31 - 1
TOKEN_COUNTS = ("num_tokens", "num_prompt_tokens", "num_tokens_chosen", "num_tokens_rejected")
# Numbers that each row needs. Another input of a metric may be null: the metric cannot rank such a row and says so.
_STRICT = (*SIDED_NUMBERS, "reward", "policy_logp", "reference_logp", "num_tokens")

Place = Callable[[int], tuple[str, int]]
"""The file of a row, and its number there, by its position among all rows."""


def checked(
    table: pa.Table,
    numbers: Mapping[str, str],
    log: BadRowLog,
    place: Place,
    notes: list[str],
    spool: Spool | None = None,
) -> tuple[pa.Table, Bools | None]:
    """A table without its bad rows and without columns that are null everywhere, and the rows that are good (None: all).
    `numbers`: the columns to check, and their names in the source, for messages. Each becomes one chunk without nulls. `spool`
    keeps the table without the bad rows if it is large.

    Bad: null, not finite, and numbers of tokens that are not whole numbers from 1 to 2^31 - 1. A bad row is logged once,
    with its first column at fault. Columns that are not strict keep what is not finite, and null becomes NaN.
    """
    good: Bools | None = None
    kept: dict[str, np.ndarray[Any, Any]] = {}
    for ours, theirs in numbers.items():
        column = table[ours]
        if column.null_count and column.null_count == table.num_rows:
            notes.append(f"column {theirs!r} is null in every row: it is not used")
            table = table.drop_columns([ours])
            continue
        null_P = column.is_null().to_numpy() if column.null_count else None
        values = kept[ours] = _array(column)
        if ours not in _STRICT:
            continue
        faults: list[tuple[str, str, Bools]] = [] if null_P is None else [("null_value", "is null", null_P)]
        if values.dtype.kind == "f" and not (finite_P := np.isfinite(values)).all():
            faults.append(("not_finite", "is not finite", ~finite_P if null_P is None else ~finite_P & ~null_P))
        if ours.startswith("num_tokens"):
            whole_P = (values >= 1) & (values <= MOST_TOKENS)
            if values.dtype.kind == "f":
                whole_P &= values == np.floor(values)
            faults.append(("bad_num_tokens", "is not a whole number from 1 to 2^31 - 1", ~whole_P))
        elif "logp" in ours and (above := int(np.count_nonzero(values > 0))):
            notes.append(
                f"column {theirs!r} ({ours}) is above 0 in {above:,} rows: sums of log-probs are at most 0; "
                "its sign may be reversed"
            )
        for reason, said, fault_P in faults:
            rows = np.flatnonzero(fault_P if good is None else fault_P & good)
            if len(rows):
                shown = rows[: log.EXAMPLES_PER_REASON].tolist()
                log.add_many(
                    reason, len(rows), [BadRow(*place(row), reason, f"column {theirs!r} {said}") for row in shown]
                )
                good = ~fault_P if good is None else good & ~fault_P
    if good is not None:
        table = spool.filtered(table, pa.array(good)) if spool is not None else table.filter(pa.array(good))
    for ours, values in kept.items():
        values = values if good is None else values[good]
        if ours in TOKEN_COUNTS and values.dtype.kind == "f" and _is_whole(values):
            values = values.astype(np.int64)
        table = table.set_column(table.column_names.index(ours), ours, pa.array(values))
    return table, good


def _array(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column of numbers, NaN for null; integers and floats stay as narrow as they are stored."""
    if pa.types.is_decimal(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    if column.null_count and not pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy())  # null of a float becomes NaN


def _is_whole(values: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(values).all() and (values == np.floor(values)).all())


def has_only_numbers(source: Source, columns: Columns) -> bool:
    """Whether a source can be read by whole columns: stored in columns, the same in every file, numbers as numbers."""
    schemas = source.schemas()
    if schemas is None or columns.shape != "numbers" or "embedding" in columns.names:
        return False
    if not {*columns.names.values()} <= {*schemas[0].names}:  # fields inside of columns
        return False
    return all(schema.names == schemas[0].names for schema in schemas) and all(
        _is_number(schema.field(columns.names[ours]).type) for schema in schemas for ours in columns.numbers
    )


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)


def read_numbers(
    source: Source, columns: Columns, log: BadRowLog, notes: list[str], spool: Spool | None = None
) -> tuple[pa.Table, int]:
    """The table of pairs (`pair_id`, numbers, `group?`, `columns_json?`) of a source for which `has_only_numbers` holds,
    and the number of rows read. No Python object is made for a row. Numbers stay in memory, and so `spool` is not used."""
    names = columns.names
    needed = [names[ours] for ours in ("pair_id", "group", *columns.numbers) if ours in names]
    places: list[tuple[str, int]] = []
    starts = [0]
    pieces: list[pa.Table] = []
    for file, first, table in source.tables(columns=list(dict.fromkeys([*needed, *columns.others]))):
        fields: dict[str, Any] = {"pair_id": _texts(table[names["pair_id"]])} if "pair_id" in names else {}
        fields |= {ours: table[names[ours]] for ours in columns.numbers}
        if "group" in names:
            fields["group"] = _groups(table[names["group"]])
        if columns.others:
            fields["columns_json"] = json_rows(table.select(list(columns.others)))
        places.append((file, first))
        starts.append(starts[-1] + table.num_rows)
        pieces.append(pa.table(fields))
    if not pieces:
        return pa.table({"pair_id": pa.array([], pa.string())}), 0
    table, total = pa.concat_tables(pieces, promote_options="permissive"), starts[-1]
    made = pa.chunked_array([_row_numbers(total)])
    given = table["pair_id"] if "pair_id" in names else made
    ids = row_ids(given, made, "pair_id", columns, notes)
    # Rows are taken out of one chunk several times faster than out of many; a chunk of strings holds up to 2 GB.
    ids = ids.combine_chunks() if ids.nbytes < 1 << 31 else ids
    table = table.drop_columns([name for name in ("pair_id",) if name in names]).add_column(0, "pair_id", ids)

    def place(row: int) -> tuple[str, int]:
        at = int(np.searchsorted(starts, row, side="right")) - 1
        return places[at][0], places[at][1] + row - starts[at]

    return checked(table, {ours: names[ours] for ours in columns.numbers}, log, place, notes)[0], total


def _row_numbers(count: int) -> pa.Array:
    """The numbers 1..count as texts of eight digits (twelve where they need more), so that their order is the rows'."""
    numbers = pa.array(np.arange(1, count + 1)).cast(pa.string())
    return pc.utf8_lpad(numbers, width=8 if count < 10**8 else 12, padding="0")


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers and texts as texts; other values are null."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    ):
        return column.cast(kind).cast(pa.string())
    return pa.chunked_array([pa.nulls(len(column), pa.string())])


def _groups(column: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = _texts(column)
    if texts.null_count == column.null_count:
        return texts
    return pa.chunked_array([pa.array(map(group_name, column.to_pylist()), pa.string())])
