"""A page of a round's pairs: filtered, sorted, limited; metadata, and text on request (`pairs`)."""

from __future__ import annotations

import functools
import operator
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.records import Pair, schema
from selfplay.inspect.query.paging import page_of, parts_of
from selfplay.inspect.query.where import Where, parse_where
from selfplay.inspect.reading import SCHEMA_VERSION, finite
from selfplay.store.lazy_table import Parts
from selfplay.store.run import Store

CONTENT = ("prompt", "chosen", "rejected")
METADATA = tuple(name for name in schema(Pair).names if name not in CONTENT)
# for these the first is the smallest; for every measure it is the largest
_SMALLEST_FIRST = ("pair_id", "round", "prompt_id", "chosen_response_id", "rejected_response_id", "rank", "drop_reason")


def pairs_document(
    store: Store,
    round_number: int,
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool | None = None,
    limit: int = 20,
    offset: int = 0,
    kept: bool | None = None,
    content: bool = False,
) -> dict[str, Any]:
    """The document of `pairs --json`: `num_pairs` of the round, `num_matching` the filter (`where.py`), and `limit` of them
    from `offset` on.

    Without `sort` the order is that of the table, by rank. Rows without a value in the sort column come last either
    way. Raises ConfigError for a column or a round that is not there.
    """
    parts = parts_of(store, round_number, "pairs")
    if sort in CONTENT:
        raise ConfigError(f"pairs cannot be sorted by {sort!r}", f"Columns: {', '.join(METADATA)}.")
    if sort is not None and descending is None:
        descending = sort not in _SMALLEST_FIRST
    found = page_of(
        parts,
        where=_test(parts, where, kept),
        sort=sort,
        descending=bool(descending),
        offset=offset,
        limit=limit,
        columns=[*METADATA, *CONTENT] if content else list(METADATA),
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "round": round_number,
        "num_pairs": found.num_rows,
        "num_matching": found.num_matching,
        "where": where,
        "sort": sort,
        "descending": bool(descending),
        "offset": offset,
        "limit": limit,
        "pairs": finite(found.table.to_pylist()),
    }


def _test(parts: Parts, where: str | None, kept: bool | None) -> Where | None:
    schema = parts.schema()
    tests = [where] if where is not None else []
    if kept is not None:
        tests.append("kept" if kept else "not kept")
    parsed = [parse_where(text, schema) for text in tests]
    return functools.reduce(operator.and_, parsed) if parsed else None
