"""What is filtered, as a file: the same rows as the page's, streamed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from selfplay.inspect.documents.pairs import pairs_document
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.viewer.downloads import FORMS, _csv, download, file_name
from selfplay.inspect.viewer.query import Query
from selfplay.inspect.viewer.rows import RowSet, row_set
from selfplay.store.run import Store

FILTER = "kept=no&q=answer&min.explicit_margin=0.05"
WHERE = (
    "NOT kept AND explicit_margin >= 0.05 "
    "AND (contains(prompt, 'answer') OR chosen ILIKE '%answer%' OR rejected ILIKE '%answer%')"
)


@pytest.mark.parametrize(("query", "where"), [("", None), (FILTER, WHERE), ("where=rank+%3C+0", "rank < 0")])
def test_a_download_has_the_rows_of_the_filter(client: TestClient, runs: Path, query: str, where: str | None) -> None:
    expected = pairs_document(Store.open(runs / "nasty"), 1, where=where, limit=1000, content=True)["pairs"]
    answers = {form: client.get(f"/run/nasty/round/1/download?format={form}&{query}") for form in FORMS}
    for form, answer in answers.items():
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="nasty-round-001-pairs.{form}"'
    assert [json.loads(line) for line in answers["jsonl"].text.splitlines()] == expected
    table = pq.read_table(io.BytesIO(answers["parquet"].content))
    assert table.to_pylist() == expected
    rows = list(csv.DictReader(io.StringIO(answers["csv"].content.decode(), newline="")))
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in expected]
    for row, pair in zip(rows, expected, strict=True):
        assert json.loads(row["chosen"]) == pair["chosen"]
        assert float(row["explicit_margin"]) == pair["explicit_margin"]


def test_no_cell_of_a_csv_is_a_formula() -> None:
    """A spreadsheet computes what begins with one of = + - @; numbers stay numbers."""
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "a=1", ""]
    table = pa.table({"=cmd": texts, "number": [-1.5] * len(texts), "turns": [[{"content": "=1"}]] * len(texts)})
    rows = list(csv.reader(io.StringIO(b"".join(_csv(table.schema, iter([table]))).decode(), newline="")))
    assert rows[0] == ["'=cmd", "number", "turns"]
    assert [row[0] for row in rows[1:]] == ["'" + text for text in texts[:6]] + texts[6:]
    assert {(row[1], row[2]) for row in rows[1:]} == {("-1.5", '[{"content": "=1"}]')}


def test_of_a_result_of_select(client: TestClient) -> None:
    answer = client.get("/select/chosen/download?format=jsonl&kept=yes")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]


def test_a_form_that_is_not_there_and_a_filter_that_is_wrong(client: TestClient) -> None:
    for query in ("format=xlsx", "format=jsonl&where=nothing+%3D%3D+1", "format=csv&sort=nothing"):
        answer = client.get(f"/run/whole/round/1/download?{query}")
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("form", FORMS)
def test_it_is_streamed_row_group_by_row_group(runs: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row group is read before what was made of the one before has been handed on."""
    rows = row_set(Store.open(runs / "whole"), 1, "select", Cache())
    table = rows.take(range(rows.num_rows))
    events: list[str] = []
    pieces = [table.slice(start, 2) for start in range(0, 8, 2)]

    def stream(rows: RowSet, query: Query):  # type: ignore[no-untyped-def]
        for piece in pieces:
            events.append("read")
            yield piece

    monkeypatch.setattr("selfplay.inspect.viewer.downloads.stream", stream)
    _, content = download(rows, Query(), form)
    for piece in content:
        if piece:
            events.append("sent")
    assert events.count("read") == len(pieces)
    assert max(len(run) for run in "".join(event[0] for event in events).split("s")) <= 2, events


def test_names_of_files_are_harmless() -> None:
    for name in ('a"b', "../..", "x\r\nSet-Cookie: y", "‮evil", ""):
        made = file_name(name, "jsonl")
        assert made.isascii()
        assert not {*made} & {*'"/\\\r\n;: '}
        assert not made.startswith(".")


def test_a_table_without_rows_is_still_a_table(client: TestClient) -> None:
    answer = client.get("/run/whole/round/1/download?format=parquet&where=rank+%3C+0")
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.num_rows == 0
    assert "pair_id" in table.column_names
