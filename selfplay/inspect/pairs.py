"""A page of a round's pairs: sorted, filtered, limited; metadata, and text on request (`pairs`)."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.errors import ConfigError
from selfplay.inspect.reading import SCHEMA_VERSION, finite, require_round
from selfplay.inspect.tables import take_rows
from selfplay.records import Pair, schema
from selfplay.store.run import Store

CONTENT = ("prompt", "chosen", "rejected")
METADATA = tuple(name for name in schema(Pair).names if name not in CONTENT)
# for these the first is the smallest; for every measure it is the largest
_SMALLEST_FIRST = ("pair_id", "round", "prompt_id", "chosen_response_id", "rejected_response_id", "rank", "drop_reason")


def pairs_document(
    store: Store,
    round_number: int,
    *,
    sort: str | None = None,
    descending: bool | None = None,
    limit: int = 20,
    kept: bool | None = None,
    content: bool = False,
) -> dict[str, Any]:
    """The document of `pairs --json`: `num_pairs` of the round, `num_matching` the filter, and the first `limit` of
    them.

    Without `sort` the order is that of the table, by rank. Rows without a value in the sort column come last either
    way. Raises ConfigError for a column or a round that is not there.
    """
    require_round(store, round_number, "select")
    if sort is not None and sort not in METADATA:
        near = difflib.get_close_matches(sort, METADATA, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"pairs cannot be sorted by {sort!r}", f"{hint}Columns: {', '.join(METADATA)}.")
    flags = store.table(round_number, "select", columns=["kept"])["kept"].to_numpy()
    rows = np.arange(len(flags)) if kept is None else np.flatnonzero(flags == kept)
    if sort is not None:
        descending = sort not in _SMALLEST_FIRST if descending is None else descending
        rows = _sorted(store, round_number, rows, sort, descending)
    elif descending:
        rows = rows[::-1]
    columns = [*METADATA, *CONTENT] if content else list(METADATA)
    page = take_rows(store, round_number, "select", rows[:limit].tolist(), columns)
    return {
        "schema_version": SCHEMA_VERSION,
        "round": round_number,
        "num_pairs": len(flags),
        "num_matching": len(rows),
        "sort": sort,
        "descending": bool(descending),
        "limit": limit,
        "pairs": finite(page.to_pylist()),
    }


def _sorted(
    store: Store, round_number: int, rows: np.ndarray[Any, Any], column: str, descending: bool
) -> np.ndarray[Any, Any]:
    values = store.table(round_number, "select", columns=[column])[column].combine_chunks()
    values = values.take(pa.array(rows))
    order = "descending" if descending else "ascending"
    # a stable sort that puts null last either way
    indices = pc.sort_indices(pa.table({"value": values}), sort_keys=[("value", order)])
    return np.asarray(rows[indices.to_numpy()])
