"""A page of a round's pairs: filtered, sorted, limited; metadata, and text on request (`pairs`)."""

from __future__ import annotations

from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.records import Pair, schema
from selfplay.inspect.query.paging import page_of
from selfplay.inspect.query.tables import table_of
from selfplay.inspect.query.where import Where, parse_where
from selfplay.inspect.reading import SCHEMA_VERSION, finite
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
    """The document of `pairs --json`: `num_pairs` of the round, `num_matching` the SQL condition `where`, and `limit` of them
    from `offset` on.

    Without `sort` the order is that of the table, by rank. Rows without a value in the sort column come last either
    way. Raises ConfigError for an unknown column or round.
    """
    table = table_of(store, round_number, "pairs")
    conditions = [] if where is None else [parse_where(where, table.schema())]
    if kept is not None:
        conditions.append(parse_where("kept" if kept else "NOT kept", table.schema()))
    if sort in CONTENT:
        raise ConfigError(f"pairs cannot be sorted by {sort!r}", f"Columns: {', '.join(METADATA)}.")
    if sort is not None and descending is None:
        descending = sort not in _SMALLEST_FIRST
    found = page_of(
        table,
        where=Where.all_of(conditions),
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
