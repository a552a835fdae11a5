"""Which pairs a query finds: the same as the terminal's `pairs`, whatever the number of row groups."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.inspect.documents.pairs import pairs_document
from selfplay.inspect.viewer import browser, matching
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.viewer.matching import find, stream
from selfplay.inspect.viewer.query import Query, Range
from selfplay.inspect.viewer.rows import RowSet, row_set
from selfplay.store.lazy_table import LazyTable, Part
from selfplay.store.run import Store

QUERIES = [
    Query(),
    Query(order="desc"),
    Query(kept="no"),
    Query(kept="yes", sort="explicit_margin"),
    Query(sort="num_tokens_chosen", order="asc"),
    Query(sort="pair_id"),
    Query(text="ANSWER 1", scope="chosen"),
    Query(text="answer"),
    Query(text="100 %_ no such"),
    Query(reason="not_selected", sort="drop_reason"),
    Query(ranges=(Range("explicit_margin", 0.2, 0.9),), where="num_tokens_chosen > 2 and contains(rejected, 'answer')"),
]


def regrouped(rows: RowSet, folder: Path, size: int) -> RowSet:
    """The same table in small row groups, over two files."""
    table = rows.take(range(rows.num_rows))
    cut = table.num_rows // 2
    parts = []
    for number, (first, piece) in enumerate(((0, table.slice(0, cut)), (cut, table.slice(cut)))):
        path = folder / f"{number}.parquet"
        pq.write_table(piece, path, row_group_size=size)
        parts.append(Part(path, first, piece.num_rows))
    return RowSet("regrouped", LazyTable(folder, tuple(parts)), Cache())


@pytest.fixture
def rows(runs: Path) -> RowSet:
    return row_set(Store.open(runs / "whole"), 1, "select", Cache())


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.encoded())
def test_it_finds_what_the_terminal_does(runs: Path, rows: RowSet, tmp_path: Path, query: Query) -> None:
    document = pairs_document(
        Store.open(runs / "whole"), 1, where=query.filter_text() or None, sort=query.sort or None,
        descending=query.descending, limit=1000,
    )  # fmt: skip
    expected = [pair["pair_id"] for pair in document["pairs"]]
    for table in (rows, regrouped(rows, tmp_path, 2)):
        found = find(table, query)
        assert table.take(found, ["pair_id"])["pair_id"].to_pylist() == expected
        streamed = [name for piece in stream(table, query) for name in piece["pair_id"].to_pylist()]
        assert sorted(streamed) == sorted(expected)


def test_only_the_row_groups_of_rows_that_are_left_are_searched(
    rows: RowSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = regrouped(rows, tmp_path, 2)
    read: list[int] = []
    groups = LazyTable.row_groups

    def counted(self: LazyTable, *arguments: object) -> Iterator[pa.Table]:
        for piece in groups(self, *arguments):  # type: ignore[arg-type]
            read.append(piece.num_rows)
            yield piece

    monkeypatch.setattr(LazyTable, "row_groups", counted)
    find(table, Query(text="answer", where="rank <= 2"))
    assert read == [2]


def test_a_search_in_texts_is_interrupted(rows: RowSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SECONDS", 0.2)
    groups = LazyTable.row_groups

    def slow(self: LazyTable, *arguments: object) -> Iterator[pa.Table]:
        for piece in groups(self, *arguments):  # type: ignore[arg-type]
            time.sleep(0.5)
            yield piece

    monkeypatch.setattr(LazyTable, "row_groups", slow)
    with pytest.raises(SelfplayError, match="interrupted"):
        find(regrouped(rows, tmp_path, 2), Query(text="answer"))


def test_a_filter_that_cannot_be_read(rows: RowSet) -> None:
    with pytest.raises(ConfigError):
        find(rows, Query(where="__import__('os')"))


def test_columns_to_filter_and_sort_by(rows: RowSet) -> None:
    query = browser.parse(rows, {"min.explicit_margin": "0.1", "sort": "rank"})
    assert query.range_of("explicit_margin").low == 0.1
    with pytest.raises(ConfigError):
        browser.parse(rows, {"sort": "prompt"})
