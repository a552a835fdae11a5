"""Arrow tables that are filled row by row, with ids, and with the columns that are kept as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.errors import DataError
from selfplay.core.json_text import parse_json
from selfplay.inputs.rows.columns import Columns
from selfplay.inputs.rows.values import content_hash, lenient_json
from selfplay.store.spool import Spool, SpooledTable

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
_FLUSH = 5_000


class RowTable:
    """An Arrow table that is filled row by row; rows become Arrow every few thousand. A large one is kept in `spool`."""

    def __init__(self, schema: Mapping[str, pa.DataType], spool: Spool | None = None) -> None:
        self._schema = pa.schema(list(schema.items()))
        self._rows: list[Sequence[Any]] = []
        self._table = SpooledTable(self._schema, spool)
        self._num_flushed = 0

    def __len__(self) -> int:
        return self._num_flushed + len(self._rows)

    def append(self, row: Sequence[Any]) -> None:
        """Add one row, its values in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._table.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._num_flushed += len(self._rows)
            self._rows = []

    def done(self) -> pa.Table:
        """The table of all rows."""
        self._flush()
        return self._table.done()


def distinct_hashes(hashes: pa.ChunkedArray) -> pa.ChunkedArray:
    """Hashes of contents as ids: each as it is, a repeated one with the number of equal ones before it hashed in, so
    that equal rows stay several."""
    code_P = hashes.combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(code_P, kind="stable")
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(code_P[order]) != 0
    repeats = order[~is_first]
    if not len(repeats):
        return hashes
    start = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    number_P = np.empty_like(order)
    number_P[order] = np.arange(len(order)) - start
    made = hashes.to_pylist()
    for row in repeats.tolist():
        made[row] = content_hash([made[row], int(number_P[row])])
    return pa.chunked_array([pa.array(made, pa.string())])


def row_ids(
    given: pa.ChunkedArray, made: pa.ChunkedArray, ours: str, columns: Columns, notes: list[str]
) -> pa.ChunkedArray:
    """The user's ids of `ours` where each is there once (they are null where they are not usable), else those made.
    Raises DataError where the user named the column and its ids cannot be used."""
    if ours not in columns.names:
        return made
    problems = [f"is neither text nor an integer in {given.null_count:,} rows"] if given.null_count else []
    if not all_differ(given.drop_null()):
        counts = given.drop_null().value_counts()
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        problems.append(f"repeats {len(repeated):,} ids ({repeated[0].as_py()[:40]!r})")
    if not problems:
        return given
    refuse_or_note(ours, " and ".join(problems), columns, notes)
    return made


def prompt_ids(given: pa.ChunkedArray, made: pa.ChunkedArray, columns: Columns, notes: list[str]) -> pa.ChunkedArray:
    """The user's ids of the rows' prompts, else the hashes of the prompts. An id that stands for two different prompts
    makes the whole column unusable. Raises DataError where the user named it."""
    if "prompt_id" not in columns.names:
        return made
    problem = None
    if given.null_count:
        problem = f"is neither text nor an integer in {given.null_count:,} rows"
    else:
        pairs = pa.table({"given": given, "made": made}).group_by(["given", "made"]).aggregate([])
        counts = pairs["given"].value_counts()
        clashes = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        if len(clashes):
            problem = f"has one id, {clashes[0].as_py()[:40]!r}, for different prompts"
    if problem is None:
        return given
    refuse_or_note("prompt_id", problem, columns, notes)
    return made


def refuse_or_note(ours: str, problem: str, columns: Columns, notes: list[str]) -> None:
    """Raise DataError for ids that the user named and that cannot be used; note that others are not used."""
    said = f"column {columns.names[ours]!r} {problem}"
    if ours in columns.named:
        raise DataError(said, f"Make the ids unique, or leave {ours} out: ids are then made.")
    notes.append(f"{said}: it is not used as {ours}, ids are made")


def all_differ(ids: pa.ChunkedArray) -> bool:
    """Whether no id is there twice and none is null. Ids in rising order, the common case, are not hashed."""
    if ids.null_count:
        return False
    chunks = [chunk for chunk in ids.chunks if len(chunk)]
    rising = all(pc.all(pc.less(chunk[:-1], chunk[1:])).as_py() is not False for chunk in chunks) and all(
        first[-1].as_py() < second[0].as_py() for first, second in itertools.pairwise(chunks)
    )
    return rising or pc.count_distinct(ids).as_py() == len(ids)


def other_columns(
    values: Mapping[str, Any], columns: Columns, renamed: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The row's other columns as canonical JSON, some of them under another name. The columns in a `columns_json` of an earlier
    result are among them."""
    others = {renamed.get(name, name): values[name] for name in columns.others if name in values}
    before = others.get("columns_json")
    if isinstance(before, str):
        try:
            earlier = parse_json(before)
        except ValueError:
            earlier = None
        if isinstance(earlier, dict):
            del others["columns_json"]
            others = {**earlier, **others}
    return lenient_json(others)


def json_rows(table: pa.Table) -> pa.Array:
    """The rows of a table as JSON objects, sorted by name; without a Python object for a row where values are simple."""
    parts = [_json_member(name, table.column(name).combine_chunks()) for name in sorted(table.column_names)]
    if all(part is not None for part in parts):
        joined = pc.binary_join_element_wise(*parts, ",")
        return pc.binary_join_element_wise("{", joined, "}", "")
    return pa.array(list(_python_rows(table)), type=pa.string())


def _python_rows(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from map(lenient_json, batch.to_pylist())


def _json_member(name: str, column: pa.Array) -> pa.Array | None:
    """`"name":value` of every row; None where a value needs more care than Arrow gives it."""
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        values = column.cast(pa.string())
    # printable ASCII without quote and backslash is JSON as it is
    elif pa.types.is_string(column.type) and pc.all(pc.match_substring_regex(column, r"^[ !#-\[\]-~]*$")).as_py():
        values = pc.binary_join_element_wise('"', column, '"', "")
    else:
        return None
    return pc.binary_join_element_wise(lenient_json(name) + ":", pc.fill_null(values, "null"), "")
