"""Which prompts rounds have in common, by prompt id (`report`). One column is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.inspect.reading import SCHEMA_VERSION
from selfplay.store.run import Store


def overlap_document(store: Store) -> dict[str, Any]:
    """`rounds` (0: the held-out prompts), `num_prompts` of each, and `shared`: by round and round, how many prompts both have.

    Ids are the user's own, or hashes of the messages: without ids, equal texts of two files are the same prompt here.
    """
    rounds = [number for number in store.rounds() if store.is_committed(number, "prompts")]
    columns = [store.table(number, "prompts", columns=["prompt_id"])["prompt_id"] for number in rounds]
    if not rounds:
        return {"schema_version": SCHEMA_VERSION, "rounds": [], "num_prompts": [], "shared": []}
    chunks = [chunk for column in columns for chunk in column.chunks]
    codes = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
    has_RU = np.zeros((len(rounds), max(len(codes.dictionary), 1)), dtype=np.bool_)
    first = 0
    for row, column in enumerate(columns):
        has_RU[row, codes.indices.slice(first, len(column)).to_numpy()] = True
        first += len(column)
    shared = [[int((one & other).sum()) for other in has_RU] for one in has_RU]
    return {
        "schema_version": SCHEMA_VERSION,
        "rounds": rounds,
        "num_prompts": [len(column) for column in columns],
        "shared": shared,
    }
