"""Columns that are filled row by row, and what a row holds beside the pair."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.dataset_selection.reading.columns import Columns
from selfplay.dataset_selection.reading.dataset import BadValue
from selfplay.dataset_selection.reading.values import number
from selfplay.inputs.prompts import canonical_json

_FLUSH = 5_000


class RowColumn:
    """An Arrow column that is filled row by row and turned into Arrow every few thousand rows."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._rows: list[Any] = []
        self._chunks: list[pa.Array] = []

    def append(self, value: Any) -> None:
        self._rows.append(value)
        if len(self._rows) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._chunks.append(pa.array(self._rows, type=self._kind))
        self._rows = []

    def done(self) -> pa.ChunkedArray:
        self._flush()
        return pa.chunked_array(self._chunks, type=self._kind)


class Embeddings:
    """The embedding column, where there is one: all of the width of the first."""

    def __init__(self, theirs: str | None) -> None:
        self._theirs = theirs
        self._row: np.ndarray[Any, np.dtype[np.float32]] | None = None
        self._rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []

    def read(self, values: dict[str, Any]) -> None:
        """Read one row's; it counts when `append` follows. Raises BadValue."""
        if self._theirs is None:
            return
        value, name = values.get(self._theirs), f"column {self._theirs!r}"
        if value is None:
            raise BadValue("null_value", f"{name} is null")
        if not isinstance(value, list) or not value:
            raise BadValue("not_an_embedding", f"{name} is no list of numbers")
        row = [number(entry, f"entry {at} of {name}") for at, entry in enumerate(value, 1)]
        if self._rows and len(row) != len(self._rows[0]):
            raise BadValue("not_an_embedding", f"{name} has {len(row)} numbers, the first row {len(self._rows[0])}")
        if None in row:
            raise BadValue("not_an_embedding", f"{name} holds null")
        with np.errstate(over="ignore"):
            self._row = np.array(row, np.float64).astype(np.float32)
        if not np.isfinite(self._row).all():
            raise BadValue("not_finite", f"{name} holds a number that is too large")

    def append(self) -> None:
        if self._row is not None:
            self._rows.append(self._row)

    def done(self) -> pa.Array:
        width = len(self._rows[0]) if self._rows else 1
        flat = np.concatenate(self._rows) if self._rows else np.empty(0, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def other_columns(values: dict[str, Any], columns: Columns) -> str:
    """The row's other columns as canonical JSON. A `columns_json` of an earlier reading is taken apart into them."""
    others = {name: values[name] for name in columns.others if name in values}
    before = others.get("columns_json")
    if isinstance(before, str):
        try:
            earlier = json.loads(before)
        except (ValueError, RecursionError):
            earlier = None
        if isinstance(earlier, dict):
            del others["columns_json"]
            others = {**earlier, **others}
    return canonical_json(others)


def group_of(values: dict[str, Any], theirs: str) -> str | None:
    """The row's group as text, null where it has none."""
    value = values.get(theirs)
    if value is None or isinstance(value, str):
        return None if value is None else value.encode("utf-8", errors="replace").decode("utf-8")
    return canonical_json(value)
