"""Pairs without texts, read by whole columns: ten million rows in about a second, with no Python object for a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.dataset import BadRowLog
from selfplay.dataset_selection.reading.numbers import NumberColumn, all_differ, check_numbers, good_rows, row_ids
from selfplay.dataset_selection.reading.row_columns import group_of
from selfplay.inputs.prompts import canonical_json
from selfplay.inputs.row_reader import Source


def read_numbers(source: Source, columns: Columns, log: BadRowLog, notes: list[str]) -> tuple[pa.Table, int]:
    """The table of pairs (`pair_id`, numbers, `group?`, `columns_json?`) of a source for which
    `numbers.has_only_numbers` holds, and the number of rows read."""
    texts = [columns.names[ours] for ours in ("pair_id", "group") if ours in columns.names]
    texts = list(dict.fromkeys(texts))
    theirs = list(dict.fromkeys([*texts, *(columns.names[ours] for ours in columns.numbers), *columns.others]))
    places: list[tuple[int, str, int]] = []
    pieces: list[pa.Table] = []
    schemas, total = source.schemas(), source.num_rows()
    filled = {}
    for ours in columns.numbers:
        filled[ours] = NumberColumn([schema.field(columns.names[ours]).type for schema in schemas], total)
    at = 0
    for file, first, table in source.tables(columns=theirs):
        places.append((at, file, first))
        for ours, column in filled.items():
            column.fill(at, table.column(columns.names[ours]))
        # Only what is no number is kept as it is: the numbers are never there twice.
        pieces.append(table.select([*texts, *columns.others]))
        at += table.num_rows
    assert at == total

    def place(row: int) -> tuple[str, int]:
        start, file, first = next(entry for entry in reversed(places) if entry[0] <= row)
        return file, first + row - start

    kept, good = check_numbers(
        {ours: column.done() for ours, column in filled.items()}, columns.names, log, place, notes
    )
    fields: dict[str, Any] = {"pair_id": _ids(source, columns, pieces, total, notes)}
    fields |= kept
    if "group" in columns.names:
        groups = [_groups(piece.column(columns.names["group"])) for piece in pieces]
        fields["group"] = _chunked(groups) if groups else pa.chunked_array([], pa.string())
    if columns.others:
        fields["columns_json"] = pa.chunked_array(
            [_columns_json(piece.select(list(columns.others))) for piece in pieces], type=pa.string()
        )
    return good_rows(fields, good), total


def _chunked(parts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    kind = pa.string() if len({part.type for part in parts}) > 1 else None
    parts = [part.cast(kind) for part in parts] if kind is not None else parts
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type if parts else None)


def _groups(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Groups as text: texts and whole numbers as they are, all else as JSON, as where rows are read one by one."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_null(kind)
    ):
        return column.cast(kind).cast(pa.string())
    values = (group_of({"": value}, "") for value in column.to_pylist())
    return pa.chunked_array([pa.array(values, pa.string())])


def _ids(source: Source, columns: Columns, pieces: list[pa.Table], total: int, notes: list[str]) -> Any:
    """The user's ids where they can be used, else the rows' numbers."""
    name = columns.names.get("pair_id")
    if name is None or not total:
        return row_ids(total)
    ids = _chunked([piece.column(name) for piece in pieces])
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    usable = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if usable and all_differ(ids.cast(kind)):
        return _in_one_piece(ids.cast(pa.string()))
    said = "is neither text nor an integer" if not usable else "has ids that are null or repeated"
    if "pair_id" in columns.named:
        raise DataError(f"{source.name}: column {name!r} {said}", "Make the ids unique, or leave pair_id out.")
    notes.append(f"column {name!r} {said}: a pair's id is the number of its row")
    return row_ids(total)


def _in_one_piece(ids: pa.ChunkedArray) -> Any:
    """Rows are taken out of one chunk several times faster than out of many; a chunk of strings holds up to 2 GB."""
    return ids.combine_chunks() if ids.nbytes < 1 << 31 else ids


def _columns_json(table: pa.Table) -> pa.Array:
    """The rows of a table as JSON objects, sorted by name."""
    table = table.combine_chunks()
    parts = [_member(name, table.column(name)) for name in sorted(table.column_names)]
    if all(part is not None for part in parts):
        empty = pa.scalar("")
        joined = pc.binary_join_element_wise(*parts, ",")
        joined = pc.binary_join_element_wise("{", joined, "}", empty) if parts else joined
        return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    return pa.array(list(_json_rows(table)), type=pa.string())


def _json_rows(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield canonical_json(row)


def _member(name: str, column: pa.ChunkedArray) -> Any:
    """`"name":value` of every row, None where a value needs more care than Arrow gives it."""
    kind = column.type
    key = canonical_json(name) + ":"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        values = column.cast(pa.string())
    elif pa.types.is_string(kind):
        # Printable ASCII without quote and backslash is JSON as it is.
        if not pc.all(pc.match_substring_regex(column, r"^[ !#-\[\]-~]*$")).as_py():
            return None
        values = pc.binary_join_element_wise('"', column, '"', "")
    else:
        return None
    return pc.binary_join_element_wise(key, pc.fill_null(values, "null"), "")
