"""The tables of a run by name: of one round as files, and of all rounds as one lazy Arrow dataset.

A round may hold millions of rows. Nothing is read before columns and rows are asked for, and no table is loaded whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from selfplay.core.errors import ConfigError, CorruptionError
from selfplay.core.stages import stage_named
from selfplay.inspect.reading import require_round
from selfplay.store.lazy_table import LazyTable, Part
from selfplay.store.run import Store
from selfplay.store.unfolding import MemoryBudget, UnfoldingError

# name of a table -> the stage that writes it
TABLES = {
    "prompts": "prompts", "responses": "sample", "rewards": "score", "unused": "pair", "logprobs": "logprobs",
    "pairs": "select", "evaluation": "evaluate",
}  # fmt: skip
_ROUND = pa.field("round", pa.int64())


def table_of(store: Store, round_number: int, name: str) -> LazyTable:
    """A table of TABLES in one round. Raises ConfigError for an unknown name or a round without it, CorruptionError."""
    if name not in TABLES:
        raise ConfigError(f"there is no table {name!r}", f"Tables: {', '.join(TABLES)}.")
    require_round(store, round_number, TABLES[name])
    return store.lazy_table(round_number, TABLES[name])


def rows_of(
    store: Store,
    round_number: int,
    stage: str,
    column: str,
    values: Sequence[str],
    columns: Sequence[str] | None = None,
    hidden: str = "",
) -> list[dict[str, Any]]:
    """The rows of a stage's table (or of a `hidden` one inside its folder) whose `column` is one of `values`, with those of
    `columns` that it has (None: all); empty where the stage is not committed or has no such table."""
    if not store.is_committed(round_number, stage):
        return []
    if hidden and not column_names(store, round_number, stage, hidden):
        return []
    table = store.lazy_table(round_number, stage, hidden)
    names = None if columns is None else [name for name in columns if name in table.schema().names]
    rows: list[dict[str, Any]] = table.take(table.rows_where(column, values), names).to_pylist()
    return rows


def column_names(store: Store, round_number: int, stage: str, table: str = "") -> list[str]:
    """The columns of a committed table as it was written; empty where the stage has no such table."""
    files = store.commit_of(round_number, stage).files
    if not any(entry.rows is not None and entry.path.rpartition("/")[0] == table for entry in files):
        return []
    return list(store.lazy_table(round_number, stage, table).schema().names)


def rounds_with(store: Store, name: str) -> list[int]:
    """Numbers of the rounds that have a table of TABLES, ascending."""
    return [number for number in store.rounds() if store.is_committed(number, TABLES[name])]


def scan(store: Store, name: str, rounds: Sequence[int] | None = None) -> ds.Dataset:
    """The rows of a table of TABLES in these rounds (None: in all that have it), in order, every table with a column
    `round`; a column that only some rounds have is null in the others. Of its files only names and sizes are checked here.

    Raises ConfigError for an unknown name or a round without it, CorruptionError.
    """
    numbers = list(rounds) if rounds is not None else rounds_with(store, name)
    tables = [(number, table_of(store, number, name)) for number in numbers]
    shape = pa.unify_schemas([table.schema() for _, table in tables] or [stage_named(TABLES[name]).schema])
    # A filter on the round passes over files, and a table without the column gets it from here.
    parts = [(part, ds.field("round") == number) for number, table in tables for part in table.parts]
    return _dataset(parts, shape if "round" in shape.names else shape.append(_ROUND))


def dataset_of(table: LazyTable, columns: Sequence[str]) -> ds.Dataset:
    """One table as a dataset, of which `columns` will be read. Raises CorruptionError where a file has other rows than its commit
    says, or where these columns would take too much memory."""
    table.check_size(columns)
    dataset = _dataset([(part, None) for part in table.parts], table.schema())
    for part, fragment in zip(table.parts, dataset.get_fragments(), strict=True):
        with table.reading(part):
            # the fragment keeps the footer that is read here
            table.check_rows(part, fragment.metadata.num_rows)
    return dataset


def _dataset(parts: Sequence[tuple[Part, ds.Expression | None]], shape: pa.Schema) -> ds.Dataset:
    parquet = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    system = LocalFileSystem()
    fragments = [parquet.make_fragment(str(part.path), system, partition) for part, partition in parts]
    return ds.FileSystemDataset(fragments, shape, parquet, system)


def batches_of(source: ds.Dataset, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a dataset, in order. Raises CorruptionError for a file that cannot be read as it was written, or would take too
    much memory."""
    try:
        for fragment in source.get_fragments():
            if isinstance(fragment, ds.ParquetFileFragment):
                _check_size(fragment, columns)
        yield from source.to_batches(columns=columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError, UnfoldingError) as error:
        raise CorruptionError(
            f"a table cannot be read ({error})", "`selfplay verify RUN --deep` reports which file is damaged."
        ) from None


def _check_size(fragment: Any, columns: list[str]) -> None:
    path = Path(fragment.path)
    for group in range(fragment.metadata.num_row_groups):
        MemoryBudget([path]).check_row_group(path, fragment.metadata, group, columns)
