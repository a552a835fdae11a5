"""Readers that check the pages of a file and not its digest (all inspection): a flipped bit among the values is never shown."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.inspect.query.api import open_run
from selfplay.inspect.query.paging import page_of
from selfplay.inspect.query.tables import table_of
from selfplay.store.lazy_table import LazyTable
from selfplay.store.run import Store
from tests.helpers.make_run import make_run

COLUMNS = ("pair_id", "prompt", "chosen", "reward_chosen", "alignment_potential", "kept")


def by_store(root: Path) -> pa.Table:
    return Store.open(root).table(1, "select", columns=list(COLUMNS))


def by_parts(root: Path) -> pa.Table:
    store = Store.open(root)
    parts = LazyTable.of(store.layout.stage(1, "select"), store.commit_of(1, "select").files)
    return parts.read(parts.parts[0], COLUMNS)


def by_scan(root: Path) -> pa.Table:
    return open_run(root).pairs.of_rounds(1).to_arrow().select(COLUMNS)


def by_sql(root: Path) -> pa.Table:
    return open_run(root).sql(f"select {', '.join(COLUMNS)} from pairs where round = 1")


def by_condition(root: Path) -> pa.Table:
    """DuckDB reads the columns of the condition and gives row numbers, and the page has few rows of the same columns."""
    every = " and ".join(f"({name} is null or {name} is not null)" for name in COLUMNS)
    store = Store.open(root)
    return page_of(table_of(store, 1, "pairs"), where=every, limit=1000, columns=COLUMNS).table


@pytest.fixture
def run_copy(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", rounds=1)
    return tmp_path / "run"


# those that open all tables of a run for each read are slow
@pytest.mark.parametrize(
    ("read", "num_flips"), [(by_store, 25), (by_parts, 25), (by_scan, 6), (by_sql, 6), (by_condition, 6)]
)
def test_a_flipped_bit_among_the_values_is_reported(
    run_copy: Path, read: Callable[[Path], pa.Table], num_flips: int
) -> None:
    path = run_copy / "rounds/001/select/part-00000.parquet"
    whole, good = read(run_copy), path.read_bytes()
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == 1
    chunks = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in COLUMNS]
    assert len(wanted) >= len(COLUMNS)
    rng, num_reported = random.Random(0), 0
    for chunk in wanted:
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        for _ in range(num_flips):
            place = start + rng.randrange(chunk.total_compressed_size)
            flipped = bytearray(good)
            flipped[place] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            try:
                # a page's header may hold what no reader needs
                assert read(run_copy).equals(whole), f"byte {place} ({chunk.path_in_schema})"
            except CorruptionError as error:
                num_reported += 1
                assert "cannot be read" in error.message
    assert num_reported > 0.4 * num_flips * len(wanted)
