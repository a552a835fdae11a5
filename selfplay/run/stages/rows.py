"""Rows of committed tables by number: how stages refer to prompts and responses without holding their texts and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.protocols import LogprobItem
from selfplay.core.stages import CANDIDATES
from selfplay.execution.sharding import LazyItems
from selfplay.run.stages.context import StageContext
from selfplay.selection.arrays import Ints
from selfplay.store.lazy_table import LazyTable, RowReader

# Rows in which ids are looked up together: for each such piece of a table the ids that are looked for are hashed once.
ROWS_AT_A_TIME = 1 << 20


def row_numbers(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> Ints:
    """The row of each id in a column of different ids, all of which are there."""
    # the ids that are looked for are hashed, not those of the table: there are fewer of them
    coded = ids.combine_chunks().dictionary_encode()
    found = pc.index_in(among, value_set=coded.dictionary).combine_chunks()
    rows = np.flatnonzero(found.is_valid())
    assert len(rows) == len(coded.dictionary), "an id of a later table is in the table that it comes from, once"
    row_of_code = np.empty(len(rows), dtype=np.int64)
    row_of_code[found.drop_null().to_numpy()] = rows
    rows_of_ids: Ints = row_of_code[coded.indices.to_numpy()]
    return rows_of_ids


def find_rows(
    table: LazyTable, name: str, ids: pa.ChunkedArray, columns: Sequence[str]
) -> tuple[Ints, dict[str, pa.Array]]:
    """The row of each of these ids in a table whose column `name` has different ids, and these columns of the rows. Of the table
    about ROWS_AT_A_TIME rows are in memory at a time."""
    coded = ids.combine_chunks().dictionary_encode()
    rows, codes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    pieces = []
    for first, piece in _pieces(table, [name, *columns]):
        found = pc.index_in(piece[name], value_set=coded.dictionary).combine_chunks()
        inside = np.flatnonzero(found.is_valid())
        rows.append(first + inside)
        codes.append(found.drop_null().to_numpy())
        pieces.append(piece.select(list(columns)).take(pa.array(inside)))
    # the codes of the rows that were found, in the order of the table
    place = np.argsort(np.concatenate(codes))
    assert len(place) == len(coded.dictionary), "an id of a later table is in the table that it comes from, once"
    place_P = place[coded.indices.to_numpy()]
    taken = pa.concat_tables(pieces)
    rows_P: Ints = np.concatenate(rows)[place_P]
    return rows_P, {column: taken[column].take(pa.array(place_P)).combine_chunks() for column in columns}


def _pieces(table: LazyTable, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Consecutive files of a table together, of ROWS_AT_A_TIME rows or more except for the last: each with its first row."""
    first, held = 0, list[pa.Table]()
    for part in table.parts:
        held.append(table.read(part, columns))
        end = part.first + part.num_rows
        if end - first >= ROWS_AT_A_TIME or part == table.parts[-1]:
            yield first, pa.concat_tables(held)
            first, held = end, []


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each text is in a column, in the order of first appearance; null is not counted."""
    counted = column.drop_null().value_counts()
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def prompt_rows(context: StageContext, number: int, prompt_id: pa.ChunkedArray) -> Ints:
    """The row of each of these prompts in the prompts table of a round."""
    return row_numbers(prompt_id, context.store.table(number, "prompts", columns=["prompt_id"])["prompt_id"])


def candidate_responses(context: StageContext, round_number: int) -> pa.Table:
    """`chosen_response_id` and `rejected_response_id` of the candidate pairs of a round. Pairs of a dataset that have a drop
    reason already are left out."""
    sides = ["chosen_response_id", "rejected_response_id"]
    if not context.from_dataset:
        return context.store.table(round_number, "pair", CANDIDATES, sides)
    table = context.store.table(round_number, "pair", CANDIDATES, [*sides, "drop_reason"])
    return table.filter(pc.is_null(table["drop_reason"])).select(sides)


def responses_of(pairs: pa.Table) -> pa.Array:
    """The ids of the responses in some pairs, each once."""
    sides = ("chosen_response_id", "rejected_response_id")
    return pa.chunked_array([chunk for side in sides for chunk in pairs[side].chunks], pa.string()).unique()


def kept_responses(context: StageContext, round_number: int) -> pa.Array:
    """The ids of the responses in the kept pairs of a round, each once."""
    columns = ["chosen_response_id", "rejected_response_id", "kept"]
    pairs = context.store.table(round_number, "select", columns=columns)
    return responses_of(pairs.filter(pairs["kept"]))


def logprob_items(
    context: StageContext, wanted: Sequence[tuple[int, pa.Array]]
) -> tuple[pa.Array, LazyItems[LogprobItem]]:
    """The responses with these (round, response ids), all rounds together in the order of their ids: the ids, and the items of
    a forward pass, whose token ids are read as they are needed."""
    names, rows, prompts, rounds = [pa.array([], pa.string())], [], [], []
    for number, ids in wanted:
        sample = context.store.table(number, "sample", columns=["response_id", "prompt_id"])
        is_wanted = pc.is_in(sample["response_id"], value_set=ids)
        rows.append(np.flatnonzero(is_wanted))
        sample = sample.filter(is_wanted)
        names += sample["response_id"].chunks
        prompts.append(prompt_rows(context, number, sample["prompt_id"]))
        rounds.append(np.full(len(rows[-1]), number))
    name = pa.concat_arrays(names)
    order = pc.sort_indices(name)
    none = np.empty(0, dtype=np.int64)
    row, prompt, of_round = (np.concatenate([none, *column])[order] for column in (rows, prompts, rounds))
    name = name.take(order)
    readers = {
        number: tuple(
            RowReader(context.store.lazy_table(number, stage), [column])
            for stage, column in (("sample", "token_ids"), ("prompts", "prompt_token_ids"))
        )
        for number, _ in wanted
    }

    def make(start: int, stop: int) -> list[LogprobItem]:
        tokens: list[tuple[list[int], list[int]]] = [([], [])] * (stop - start)
        for number, (responses, asked) in readers.items():
            here = np.flatnonzero(of_round[start:stop] == number)
            token_ids = responses.take(row[start + here])["token_ids"].to_pylist()
            prompt_ids = asked.take(prompt[start + here])["prompt_token_ids"].to_pylist()
            for place, *found in zip(here.tolist(), prompt_ids, token_ids, strict=True):
                tokens[place] = (found[0], found[1])
        ids = name.slice(start, stop - start).to_pylist()
        return [LogprobItem(response_id, *found) for response_id, found in zip(ids, tokens, strict=True)]

    return name, LazyItems(len(name), make)
