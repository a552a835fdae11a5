"""The result as files: `kept/` and `dropped/` as Parquet, the formats of other trainers, card and summary.

Columnar throughout: rows are gathered a row group at a time, so that a table of millions is never copied as a whole and no
Python object is made for a row (the JSONL file for other trainers aside, which is for tables with texts only).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.dataset_selection.chunks import taken
from selfplay.dataset_selection.needs import EMBEDDING
from selfplay.dataset_selection.reading.numbers import TOKEN_COUNTS
from selfplay.inspect.export import formats
from selfplay.inspect.export.control_text import ControlTextCount
from selfplay.selection.arrays import Ints
from selfplay.selection.reasons import DropReasons
from selfplay.selection.select import PairPool, Selection
from selfplay.store.layout import part_name
from selfplay.store.result_folder import ResultWriter

KEPT, DROPPED, UNUSED = "kept", "dropped", "unused"
# Gathered at a time: of texts fewer, since each row is kilobytes.
_NUMBERS_IN_GROUP, _TEXTS_IN_GROUP = 1 << 18, 1 << 15
_ROWS_IN_FILE = 1 << 21
# A dictionary of floats would only cost, nobody filters by their ranges, and their digits do not compress; the rest does.
_PARQUET: dict[str, Any] = {"write_statistics": False, "store_schema": False}
_NUMBERS, _OTHERS = "NONE", "lz4"

_FIRST = (
    "pair_id", "prompt_id", "source", "source_file", "source_row", "prompt", "chosen", "rejected", "chosen_response_id",
    "rejected_response_id", "reward_chosen", "reward_rejected", "explicit_margin", "policy_logp_chosen",
    "policy_logp_rejected", "reference_logp_chosen", "reference_logp_rejected", "num_prompt_tokens", "num_tokens_chosen",
    "num_tokens_rejected", "implicit_margin", "alignment_potential",
)  # fmt: skip
_LAST = ("metric_value", "rank", "kept", "drop_reason", "group", "columns_json")


class ResultTable:
    """The columns of the result over P pairs, put together when rows are asked for: the dataset's own, what was computed,
    and the selection's. Embeddings are left out."""

    def __init__(self, pairs: pa.Table, pool: PairPool, selection: Selection) -> None:
        made: dict[str, Any] = {
            "explicit_margin": selection.explicit_margin_P,
            "implicit_margin": selection.implicit_margin_P,
            "alignment_potential": selection.alignment_potential_P,
            "metric_value": selection.metric_value_P,
            "rank": selection.rank_P,
        }
        columns: dict[str, Any] = {name: pairs[name] for name in pairs.column_names if name != EMBEDDING}
        columns |= {name: column for name, column in pool.columns.items() if np.ndim(column) == 1}
        columns |= {name: column for name, column in made.items() if column is not None}
        columns |= {"kept": selection.kept_P, "drop_reason": selection.drop_reason_P}
        others = sorted(name for name in columns if name not in (*_FIRST, *_LAST))
        names = [name for name in (*_FIRST, *others, *_LAST) if name in columns]
        self._columns = {name: columns[name] for name in names}
        self.schema = pa.schema([pa.field(name, _type(name, column)) for name, column in self._columns.items()])

    @property
    def has_text(self) -> bool:
        """Whether there are texts, not only numbers."""
        return "chosen" in self._columns

    def rows(self, rows: Ints) -> pa.Table:
        """These rows, in this order."""
        arrays = [_taken(name, column, rows, self.schema.field(name).type) for name, column in self._columns.items()]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def order(selection: Selection) -> tuple[Ints, Ints]:
    """Rows of the kept pairs by rank, best first, and of the others in the order of the dataset."""
    kept = np.flatnonzero(selection.kept_P)
    row_of_rank = np.full(len(selection.rank_P) + 1, -1)  # ranks are from 1, and no two rows have the same
    row_of_rank[selection.rank_P[kept]] = kept
    return row_of_rank[row_of_rank >= 0], np.flatnonzero(~selection.kept_P)


def write_tables(writer: ResultWriter, result: ResultTable, selection: Selection) -> None:
    """`kept/` and `dropped/`; files are written two at a time. A part without rows has no file: `load_dataset` fails on a split
    without rows."""
    kept, dropped = order(selection)
    options = {**_PARQUET, "compression": _compression(result.schema), "use_dictionary": _dictionaries(result.schema)}

    size = _TEXTS_IN_GROUP if result.has_text else _NUMBERS_IN_GROUP

    def write(job: tuple[str, int, Ints]) -> None:
        folder, number, rows = job
        groups = (result.rows(rows[start : start + size]) for start in range(0, max(len(rows), 1), size))
        name = f"{folder}/{part_name(number)}"
        writer.add_parquet(name, result.schema, groups, **options)

    jobs = [
        (folder, number, rows[start : start + _ROWS_IN_FILE])
        for folder, rows in ((KEPT, kept), (DROPPED, dropped))
        for number, start in enumerate(range(0, len(rows), _ROWS_IN_FILE))
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, jobs))


def write_formats(writer: ResultWriter, result: ResultTable, selection: Selection) -> tuple[int, list[str]]:
    """The kept pairs for other trainers. Returns how many of them LLaMA-Factory will skip, and notes on their texts."""
    kept, _ = order(selection)
    skipped, typed = 0, ControlTextCount()

    def pieces() -> Iterator[bytes]:
        nonlocal skipped
        for rows in typed.of(result.rows(kept[start : start + 4096]) for start in range(0, len(kept), 4096)):
            skipped += formats.num_not_alternating(rows)
            yield b"".join(formats.lines(rows))

    writer.add_pieces(formats.FILE, pieces())
    writer.add(formats.DATASET_INFO, formats.dataset_info({formats.NAME: "kept.jsonl"}))
    writer.add(formats.AXOLOTL, formats.axolotl(formats.FILE))
    return skipped, typed.notes()


def write_unused(writer: ResultWriter, unused: pa.Table) -> None:
    """The responses that are in no pair."""
    writer.add_parquet(f"{UNUSED}/{part_name(0)}", unused.schema, [unused], compression=_OTHERS, **_PARQUET)


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Codec by the path of a column inside the file: that of a list of messages has several."""
    found: dict[str, str] = {}
    for field in schema:
        leaves = [field.name]
        if pa.types.is_list(field.type):
            leaves = [f"{field.name}.list.element.{part.name}" for part in field.type.value_type]
        found |= dict.fromkeys(leaves, _NUMBERS if pa.types.is_floating(field.type) else _OTHERS)
    return found


def _dictionaries(schema: pa.Schema) -> list[str]:
    """The columns of few distinct values."""
    return [field.name for field in schema if pa.types.is_dictionary(field.type)]


def _is_whole(column: np.ndarray[Any, Any]) -> bool:
    finite = column[np.isfinite(column)]
    return bool((finite == np.floor(finite)).all() and (np.abs(finite) < 2**53).all())


def _type(name: str, column: Any) -> pa.DataType:
    """The type in the file. Numbers of tokens are whole also where some are missing (NaN)."""
    if isinstance(column, DropReasons):
        return pa.dictionary(pa.int32(), pa.string())
    if isinstance(column, pa.ChunkedArray):
        return column.type
    if name in TOKEN_COUNTS and column.dtype.kind == "f" and _is_whole(column):
        return pa.int64()
    return pa.from_numpy_dtype(column.dtype)


def _taken(name: str, column: Any, rows: Ints, kind: pa.DataType) -> pa.Array:
    if isinstance(column, DropReasons):
        code = column.code_P[rows].astype(np.int32) - 1
        indices = pa.array(code, mask=code < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(column.names, pa.string()))
    if isinstance(column, pa.ChunkedArray):
        return taken(column, rows)
    values = column[rows]
    if name == "rank":
        return pa.array(values, mask=values == 0)
    if values.dtype.kind == "f":
        # NaN and infinity are no values of a table: null, as in a run
        finite = np.isfinite(values)
        if pa.types.is_integer(kind):
            values = np.where(finite, values, 0).astype(np.int64)
        return pa.array(values, kind) if finite.all() else pa.array(values, kind, mask=~finite)
    return pa.array(values, kind)
