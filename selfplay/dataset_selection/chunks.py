"""Rows out of columns that are kept in many pieces, which may be larger than memory (see `store/spool.py`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from selfplay.selection.arrays import Ints
from selfplay.store.spool import release_pages


def taken(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """These rows in one piece. Arrow's own `take` joins all chunks first, at each call: the whole column for every row group."""
    if column.num_chunks == 1:
        return column.chunk(0).take(pa.array(rows))
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    where = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(where, kind="stable")
    ends = np.cumsum(np.bincount(where, minlength=column.num_chunks))
    begins = np.concatenate(([0], ends[:-1]))
    pieces = [
        _of_chunk(column.chunk(number), rows[order[begins[number] : ends[number]]] - starts[number])
        for number in np.flatnonzero(ends > begins).tolist()
    ]
    joined = pa.concat_arrays(pieces) if pieces else pa.array([], column.type)
    if len(pieces) < 2 or bool((where[:-1] <= where[1:]).all()):
        return joined
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return joined.take(pa.array(back))


def _of_chunk(chunk: pa.Array, rows: Ints) -> pa.Array:
    found = chunk.take(pa.array(rows))
    release_pages()  # each row group reads a little of every chunk
    return found
