"""Pairs of a dataset that repeat or contradict another one: always marked, dropped on request."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.dataset_selection.candidates import Pairs
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.selection.arrays import Ints
from selfplay.selection.pairing.repeats import NONE, find_repeats
from selfplay.selection.reasons import DUPLICATE, REVERSED, is_kept, no_reasons, with_reason
from selfplay.store.spool import release_pages

DUPLICATE_OF, REVERSED_OF = "duplicate_of", "reversed_of"
_SEPARATOR = "\x1e"


def flag_repeats(pairs: Pairs, settings: SelectSettings) -> None:
    """Give the pairs with texts the columns `duplicate_of` (the first pair with the same texts) and `reversed_of` (the first pair
    with chosen and rejected exchanged), ids or null, where there are such pairs; and drop those pairs where the settings say
    so: of equal pairs all but the first, of contradicting ones all."""
    table = pairs.table
    size = table.num_rows
    responses = _codes([*table["chosen"].chunks, *table["rejected"].chunks])
    prompts = _codes(table["prompt"].chunks)
    duplicate_P, reversed_P = find_repeats(prompts, responses[:size], responses[size:])
    # a pair that is dropped already is no reason to drop another one
    usable = np.flatnonzero(is_kept(pairs.reasons))
    among_usable = find_repeats(prompts[usable], responses[:size][usable], responses[size:][usable])
    for column, row_P, usable_row, reason, drop, what in (
        (DUPLICATE_OF, duplicate_P, among_usable[0], DUPLICATE, settings.drop_duplicates, "repeat an earlier pair"),
        (
            REVERSED_OF,
            reversed_P,
            among_usable[1],
            REVERSED,
            settings.drop_reversed,
            "contradict another pair (chosen and rejected exchanged)",
        ),
    ):
        found_P = row_P != NONE
        if not found_P.any():
            continue
        ids = pairs.table["pair_id"].take(pa.array(row_P, mask=~found_P))
        pairs.table = pairs.table.append_column(column, ids)
        if drop:
            dropped_P = np.zeros(size, dtype=np.bool_)
            dropped_P[usable[usable_row != NONE]] = True
            pairs.drop(with_reason(no_reasons(size), dropped_P, reason))
        else:
            flag = "--drop-duplicates" if column == DUPLICATE_OF else "--drop-reversed"
            pairs.notes.append(f"{found_P.sum()} of {size} pairs {what}: see column {column}; {flag} leaves them out.")


def _codes(chunks: list[pa.ListArray]) -> Ints:
    """An integer for each conversation, the same for equal ones."""
    digests = [pa.array([], pa.binary(16)), *map(_digests, chunks)]
    coded = pa.chunked_array(digests).combine_chunks().dictionary_encode()
    return np.asarray(coded.indices.to_numpy(), dtype=np.int64)


def _digests(turns: pa.ListArray) -> pa.Array:
    """A digest of each conversation: its roles and its contents."""
    lengths = pc.list_value_length(turns).to_numpy()
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
    flat = pc.list_flatten(turns)
    words = pc.binary_join_element_wise(flat.field("role"), flat.field("content"), _SEPARATOR)
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, words), _SEPARATOR)
    release_pages()
    return pa.array([blake2b(text.encode(), digest_size=16).digest() for text in joined.to_pylist()], pa.binary(16))
