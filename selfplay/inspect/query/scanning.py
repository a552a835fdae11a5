"""A table over several rounds as one lazy Arrow dataset: nothing is read before it is asked for columns and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from selfplay.core.errors import CorruptionError
from selfplay.core.records import EvaluationResponse, Logprobs, Pair, Prompt, Response, Reward, Unused, schema
from selfplay.inspect.documents.rounds import rounds_document
from selfplay.inspect.query.paging import TABLES, parts_of
from selfplay.store.lazy_table import Parts
from selfplay.store.run import Store

_RECORDS = {
    "prompts": Prompt, "responses": Response, "rewards": Reward, "unused": Unused, "logprobs": Logprobs, "pairs": Pair,
    "evaluation": EvaluationResponse,
}  # fmt: skip
_ROUND = pa.field("round", pa.int64())


def rounds_with(store: Store, name: str) -> list[int]:
    """Numbers of the rounds that have a table of TABLES, ascending."""
    return [number for number in store.rounds() if store.is_committed(number, TABLES[name])]


def scan(store: Store, name: str, rounds: Sequence[int] | None = None) -> ds.Dataset:
    """The rows of a table of TABLES in these rounds (None: in all that have it), in order, every table with a column
    `round`; a column that only some rounds have is null in the others. Of its files only names and sizes are checked here.

    Raises ConfigError for a name or a round that is not there, CorruptionError.
    """
    numbers = list(rounds) if rounds is not None else rounds_with(store, name)
    tables = [(number, parts_of(store, number, name)) for number in numbers]
    shape = _shape(name, [parts.schema() for _, parts in tables])
    parquet = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    return ds.FileSystemDataset(list(_fragments(parquet, tables)), shape, parquet, LocalFileSystem())


def batches_of(source: ds.Dataset, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of what `scan` gave, in order. Raises CorruptionError for a file that cannot be read as it was written."""
    try:
        yield from source.to_batches(columns=columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptionError(
            f"a table cannot be read ({error})", "`selfplay verify RUN --deep` says which file is damaged."
        ) from None


def _shape(name: str, found: Sequence[pa.Schema]) -> pa.Schema:
    shape = pa.unify_schemas(list(found) or [schema(_RECORDS[name])])
    return shape if "round" in shape.names else shape.append(_ROUND)


def _fragments(parquet: ds.ParquetFileFormat, tables: Sequence[tuple[int, Parts]]) -> Iterator[ds.Fragment]:
    for number, parts in tables:
        for part in parts.parts:
            # what is known of a file's rows: a filter on the round passes over files, a table without the column has it
            yield parquet.make_fragment(str(part.path), LocalFileSystem(), ds.field("round") == number)


def rounds_table(store: Store) -> pa.Table:
    """The numbers of every round. What no round has is a number all the same: a type of its own could not be added up."""
    table = pa.Table.from_pylist(rounds_document(store)["rounds"])
    if not table.num_rows:
        return pa.table({"round": pa.array([], pa.int64())})
    empty = {field.name for field in table.schema if pa.types.is_null(field.type)}
    shape = pa.schema([field.with_type(pa.float64()) if field.name in empty else field for field in table.schema])
    return table.cast(shape)
