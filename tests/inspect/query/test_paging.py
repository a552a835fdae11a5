"""Pages of a table against the same done with everything in memory; what is read for them, and damage that is met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import opening_parts
from selfplay.core.errors import ConfigError, CorruptionError
from selfplay.inspect.documents import show
from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.query.paging import Page, page_of
from selfplay.inspect.query.tables import TABLES, table_of
from selfplay.store.lazy_table import LazyTable
from selfplay.store.manifest import FileEntry
from selfplay.store.run import Store
from tests.helpers.make_run import make_run


def write(folder: Path, table: pa.Table, cuts: Sequence[int], groups: int = 3) -> LazyTable:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, table.num_rows], strict=True)):
        piece = table.slice(start, end - start)
        name = f"part-{index:05d}.parquet"
        pq.write_table(piece, folder / name, row_group_size=groups)
        entries.append(FileEntry(name, 0, "", piece.num_rows))
    return LazyTable.of(folder, entries)


@given(
    values=st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")])), max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=3),
    sort=st.sampled_from([None, "value", "name"]),
    descending=st.booleans(),
    where=st.sampled_from([None, "value > 1", "number >= 3 and value is not null"]),
    offset=st.integers(0, 6),
    limit=st.integers(0, 6),
)
@settings(max_examples=80, deadline=None)
def test_a_page_is_what_sorting_everything_gives(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None], cuts: list[int], sort: str | None,
    descending: bool, where: str | None, offset: int, limit: int,
) -> None:  # fmt: skip
    table = pa.table(
        {
            "number": pa.array(range(len(values)), pa.int64()),
            "value": pa.array(values, pa.float64()),
            "name": pa.array([None if value is None else f"n{value}" for value in values], pa.string()),
        }
    )
    cuts = sorted({min(cut, len(values)) for cut in cuts})
    parts = write(tmp_path_factory.mktemp("table"), table, cuts)
    found = page_of(parts, where=where, sort=sort, descending=descending, offset=offset, limit=limit)
    rows = table
    if where is not None:
        value, number = pc.fill_null(rows["value"], float("nan")), rows["number"]
        mask = pc.greater(value, 1.0) if where == "value > 1" else pc.is_finite(value)
        rows = rows.filter(mask if where == "value > 1" else pc.and_(mask, pc.greater_equal(number, 3)))
    if sort is not None:
        order = "descending" if descending else "ascending"
        rows = rows.take(pc.sort_indices(rows, sort_keys=[(sort, order)]))
    elif descending:
        rows = rows.take(pa.array(np.arange(rows.num_rows)[::-1].copy()))
    assert (found.num_rows, found.num_matching) == (len(values), rows.num_rows)
    wanted = rows.slice(offset, limit)["number"].to_pylist()
    assert found.table["number"].to_pylist() == found.rows.tolist() == wanted


def page(store: Store, round_number: int, name: str, **options: Any) -> Page:
    return page_of(table_of(store, round_number, name), **options)


def test_tables_of_a_run_by_name(whole_run: Path) -> None:
    store = Store.open(whole_run)
    for name, stage in TABLES.items():
        found = page(store, 1, name, limit=3)
        every = store.table(1, stage)
        assert found.num_rows == found.num_matching == every.num_rows
        assert found.table.equals(every.slice(0, 3).combine_chunks())
    best = page(store, 1, "responses", where="finish_reason == 'stop'", sort="num_tokens", descending=True, limit=2)
    assert best.table["num_tokens"].to_pylist() == [8, 8]
    with pytest.raises(ConfigError, match="no table 'pear'") as error:
        page(store, 1, "pear")
    assert "pairs" in error.value.hint
    with pytest.raises(ConfigError, match="round 0 has no select"):
        page(store, 0, "pairs")
    with pytest.raises(ConfigError, match="cannot be sorted by 'token_ids'"):
        page(store, 1, "responses", sort="token_ids")


def damage(path: Path, column: str, groups: Sequence[int]) -> None:
    """Overwrite the pages of a column in these row groups."""
    data = bytearray(path.read_bytes())
    for group in groups:
        metadata = pq.ParquetFile(path).metadata.row_group(group)
        chunk = next(
            chunk for chunk in map(metadata.column, range(metadata.num_columns)) if chunk.path_in_schema == column
        )
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)


def test_only_columns_and_row_groups_that_are_needed_are_read(tmp_path: Path) -> None:
    table = pa.table({"a": range(30), "b": [number % 7 for number in range(30)], "text": ["x" * 100] * 30})
    parts = write(tmp_path, table, [10, 20], groups=5)
    damage(tmp_path / "part-00000.parquet", "text", [0, 1])
    damage(tmp_path / "part-00001.parquet", "text", [0])
    damage(tmp_path / "part-00002.parquet", "text", [0])
    assert page_of(parts, offset=17, limit=2).table["a"].to_pylist() == [17, 18]
    found = page_of(parts, where="b == 6 and a > 7", sort="a", descending=True, limit=1, columns=["text"])
    assert (found.num_matching, found.rows.tolist()) == (3, [27])
    with pytest.raises(CorruptionError, match="cannot be read"):
        page_of(parts, where="b == 6 and a > 7", sort="a", descending=True, limit=2, columns=["text"])
    with pytest.raises(CorruptionError, match="cannot be read"):
        page_of(parts, where="text = 'y'")


def test_a_part_that_is_not_what_its_commit_says(run_copy: Path) -> None:
    path = run_copy / "rounds/001/select/part-00000.parquet"
    parts = table_of(Store.open(run_copy), 1, "pairs")
    pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
    for arguments in ({}, {"where": "kept"}, {"sort": "rank"}):
        with pytest.raises(CorruptionError, match=r"has 10 rows, its commit says 11"):
            page_of(parts, **arguments)
    path.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(CorruptionError, match="cannot be read"):
        page_of(parts, sort="rank")


def test_the_round_that_the_benchmark_opens_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_parts, "PAIRS_IN_SHARD", 70)
    monkeypatch.setattr(opening_parts, "RESPONSES_IN_SHARD", 60)
    made = opening_parts.make(str(tmp_path / "run"), "400")
    assert (made["num_pairs"], made["num_responses"]) == (400, 200)
    store = Store.open(tmp_path / "run")
    found = page(store, 1, "pairs", where="kept and explicit_margin > 1", sort="reward_chosen", limit=9)
    every = [row for row in store.table(1, "select").to_pylist() if row["kept"] and row["explicit_margin"] > 1]
    every.sort(key=lambda row: row["reward_chosen"])
    assert (found.num_matching, found.table.to_pylist()) == (len(every), every[:9])
    responses = pair_document(store, made["pair_id"])["responses"]
    assert [response["use"] for response in responses].count("other_pair") == 3


def test_a_sample_of_rows_is_spread_over_the_table(tmp_path: Path) -> None:
    parts = write(tmp_path, pa.table({"a": range(1000), "b": range(1000)}), [250, 600], groups=10)
    for wanted in (95, 300, 700):
        found = parts.sample(["a"], wanted)
        assert found.column_names == ["a"]
        assert wanted <= found.num_rows <= wanted * 1.1 + 10
        values = found["a"].to_numpy()
        assert len(np.unique(values)) == len(values)
        assert abs(values.mean() - 500) < 60
    assert parts.sample(["a"], 1000)["a"].to_pylist() == list(range(1000))


def test_a_large_round_is_shown_from_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_run(tmp_path / "run", rounds=1)
    whole = show_document(store, 1, quick=True)
    assert whole == show_document(store, 1)
    monkeypatch.setattr(show, "LARGE", 5)
    quick = show_document(store, 1, quick=True)
    assert quick["diagnostics"] is None
    assert (quick["funnel"], quick["selection"]) == (whole["funnel"], whole["selection"])
    assert quick["distributions"]["num_tokens"]["num_rows"] == 44
    assert quick["distributions"]["num_tokens"]["num_seen"] == 22  # the first of two files of one row group each
    assert show_document(store, 1, by="topic", quick=True)["diagnostics"] is not None
    assert show_document(store, 1)["diagnostics"] == whole["diagnostics"]
