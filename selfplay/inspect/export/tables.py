"""A round's pairs as they are exported: the columns of the pairs table, and where each prompt came from.

Read and written a batch at a time: a round of millions is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfplay.core.records import Pair, Prompt, schema
from selfplay.store.run import Store
from selfplay.store.run_state import is_selection

_ORIGIN = ("source_file", "source_row")
BATCH_ROWS = 16384


def exported_schema(store: Store) -> pa.Schema:
    """Columns of an exported pair: those of the pairs table, then file (its name) and row that the prompt came from. Of a
    selection from a dataset, which may lack what a run has (numbers of tokens), any may be null."""
    fields = [*schema(Pair), *(schema(Prompt).field(name) for name in _ORIGIN)]
    return pa.schema([field.with_nullable(True) for field in fields] if is_selection(store) else fields)


def pairs(store: Store, round_number: int, *, kept: bool) -> Iterator[pa.Table]:
    """The kept or the other pairs of a round, in the order of the table (by rank), in batches that are not empty."""
    prompts = store.table(round_number, "prompts", columns=["prompt_id", *_ORIGIN])
    names = [Path(name).name for name in prompts["source_file"].to_pylist()]
    prompts = prompts.set_column(1, "source_file", pa.array(names, pa.string()))
    folder = store.layout.stage(round_number, "select")
    wanted, shape = schema(Pair), exported_schema(store)
    store.lazy_table(round_number, "select").check_size()
    for entry in store.commit_of(round_number, "select").files:
        if entry.rows is None or "/" in entry.path:  # what a metric read is a table inside the folder
            continue
        for batch in pq.ParquetFile(folder / entry.path).iter_batches(BATCH_ROWS):
            table = pa.table(batch).filter(pc.equal(batch["kept"], kept))
            if not table.num_rows:
                continue
            columns = [
                table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
                for field in wanted
            ]
            rows = pc.index_in(table["prompt_id"], prompts["prompt_id"])
            origin = [prompts[name].take(rows) for name in _ORIGIN]
            yield pa.table([*columns, *origin], schema=shape)
