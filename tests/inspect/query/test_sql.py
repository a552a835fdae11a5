"""SQL over a run: what the tables hold, and that a query can do nothing but read them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError
from selfplay.core.records import part_column
from selfplay.inspect.query import connection
from selfplay.inspect.query.api import open_run
from selfplay.inspect.query.connection import connect
from selfplay.inspect.query.sql import sql_document
from selfplay.inspect.query.tables import TABLES, scan
from selfplay.store.run import Store
from tests.helpers.make_run import make_run
from tests.helpers.sealing import rewrite


def rows(store: Store, query: str) -> list[list[Any]]:
    return sql_document(store, query)["rows"]


def test_tables_hold_all_rounds_with_their_number(whole_run: Path) -> None:
    store = Store.open(whole_run)
    for name, stage in TABLES.items():
        wanted = {
            number: store.table(number, stage).num_rows for number in (0, 1, 2) if store.is_committed(number, stage)
        }
        counted = rows(store, f"select round, count(*) from {name} group by round order by round")
        assert dict(counted) == wanted
    kept = rows(store, "select sum(kept::int), round(avg(explicit_margin), 9) from pairs where round = 2")
    table = store.table(2, "select")
    mean = sum(table["explicit_margin"].to_pylist()) / table.num_rows
    assert kept == [[sum(table["kept"].to_pylist()), pytest.approx(mean)]]
    found = rows(store, "select round, num_kept, stage_seconds.train from rounds order by 1 desc limit 1")
    assert found == [[2, 6, 1.5]]
    joined = "select count(*) from responses join rewards using (response_id, round) where reward is null"
    assert rows(store, joined) == [[2]]


def test_the_document_is_json(whole_run: Path) -> None:
    query = (
        "select 1::hugeint * 5 a, 1.5 b, 'nan'::double c, date '2026-01-02' d, [1, 2] e, {'x': 1} f, 'a'::blob g, null h, "
        "uuid '00000000-0000-0000-0000-000000000001' i, interval 90 second j, true k"
    )
    document = sql_document(Store.open(whole_run), query)
    assert list(document) == ["schema_version", "columns", "num_rows", "more", "rows"]
    assert document["columns"][0] == {"name": "a", "type": "HUGEINT"}
    assert document["rows"] == [
        [5, 1.5, None, "2026-01-02", [1, 2], {"x": 1}, "61", None, "00000000-0000-0000-0000-000000000001", "0:01:30", True]
    ]  # fmt: skip


def test_rows_are_limited_and_said_to_be(whole_run: Path) -> None:
    store = Store.open(whole_run)
    query = "select pair_id from pairs order by pair_id"
    every = sql_document(store, query, None)
    assert (every["num_rows"], every["more"]) == (22, False)
    some = sql_document(store, query, 5)
    assert (some["num_rows"], some["more"], some["rows"]) == (5, True, every["rows"][:5])
    assert not sql_document(store, query, 22)["more"]


LOCAL = pa.table({"secret": [1]})


@pytest.mark.parametrize(
    "query",
    [
        "select * from LOCAL",
        "select * from '{file}'",
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from read_blob('{file}')",
        "select * from read_json('{file}')",
        "select * from read_parquet('{run}/rounds/001/select/part-00000.parquet')",
        "select * from parquet_metadata('{run}/rounds/001/select/part-00000.parquet')",
        "select * from sniff_csv('{file}')",
        "select * from glob('{folder}/*')",
        "select * from query('select * from read_text(''{file}'')')",
        "select * from query_table('{file}')",
        "select * from read_csv('https://example.com/a.csv')",
        "select getenv('HOME')",
        "copy pairs to '{folder}/new'",
        "copy (select 1) to '{folder}/new'",
        "copy rounds from '{file}'",
        "export database '{folder}/new'",
        "import database '{folder}'",
        "attach '{folder}/new'",
        "attach ':memory:' as other",
        "install httpfs",
        "load httpfs",
        "load '{folder}/x.so'",
        "set enable_external_access = true",
        "set memory_limit = '90GB'",
        "set threads = 64",
        "reset lock_configuration",
        "set log_query_path = '{folder}/new'",
        "set file_search_path = '/'",
        "pragma enable_profiling",
        "pragma profiling_output = '{folder}/new'",
        "pragma memory_limit = '90GB'",
        "call enable_logging()",
        "create table a as select 1",
        "create secret (type s3)",
        "insert into rounds select * from rounds",
        "drop view pairs",
        "checkpoint",
        "select 1; copy pairs to '{folder}/new'",
        "explain analyze copy pairs to '{folder}/new'",
    ],
)
def test_a_query_reads_and_writes_nothing_else(whole_run: Path, tmp_path: Path, query: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SelfplayError) as error:
        sql_document(Store.open(whole_run), query.format(file=tmp_path / "secret.csv", folder=tmp_path, run=whole_run))
    assert error.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_the_lock_holds_inside_duckdb_too(whole_run: Path) -> None:
    """What the statement's kind already refuses is refused once more by the connection."""
    with connect({"pairs": scan(Store.open(whole_run), "pairs")}) as cursor:
        for query in ("set memory_limit = '90GB'", "load httpfs", "copy pairs to '/tmp/never'", "attach '/tmp/never'"):
            with pytest.raises(duckdb.Error, match=r"configuration|disabled"):
                cursor.execute(query)
        settings = dict(cursor.execute("select name, value from duckdb_settings()").fetchall())
    assert settings["enable_external_access"] in ("false", False)
    assert settings["lock_configuration"] in ("true", True)
    assert settings["temp_directory"] in ("", None)


@pytest.mark.parametrize(
    ("query", "said", "advice"),
    [
        ("selec 1", "syntax error", "Tables: prompts"),
        ("select a from pears", "pears", "Tables: prompts"),
        ("", "0 statements", "one SELECT"),
        ("select 1; select 2", "2 statements", "one SELECT"),
        ("delete from pairs", "DELETE statement is refused", "one SELECT"),
        ("select cast('a' as int)", "Could not convert", ""),
    ],
)
def test_what_is_wrong_is_said(whole_run: Path, query: str, said: str, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        sql_document(Store.open(whole_run), query)
    assert said in error.value.message
    assert advice in error.value.hint


def test_memory_is_bounded(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_MEMORY", 64 << 20)
    with pytest.raises(SelfplayError, match="memory") as error:
        sql_document(Store.open(whole_run), "select list(a.range order by hash(a.range)) from range(40000000) a")
    assert "fewer columns" in error.value.hint


def test_a_damaged_file_is_named_as_one(run_copy: Path) -> None:
    path = run_copy / "rounds/001/select/part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[60:400] = b"x" * 340
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="cannot be read"):
        sql_document(Store.open(run_copy), "select pair_id, explicit_margin from pairs")
    path.write_bytes(data[:-9])
    with pytest.raises(CorruptionError, match="bytes, its manifest says"):
        sql_document(Store.open(run_copy), "select 1")


def test_from_python(whole_run: Path) -> None:
    query = "select round, count(*) as num_kept from pairs where kept group by round order by round"
    assert open_run(whole_run).sql(query).to_pydict() == {"round": [1, 2], "num_kept": [6, 6]}
    with pytest.raises(ConfigError, match="DELETE statement is refused"):
        open_run(whole_run).sql("delete from pairs")


def test_a_run_that_has_begun_has_empty_tables(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(0, "prompts"))
    assert rows(store, "select (select count(*) from pairs), (select count(*) from rounds)") == [[0, 0]]
    assert rows(store, "select max(reward) from rewards where round = 1") == [[None]]


def test_columns_that_only_some_rounds_have_are_null_in_the_others(run_copy: Path) -> None:
    store = Store.open(run_copy)
    table = store.table(2, "score")
    path = run_copy / "rounds/002/score/part-00000.parquet"
    pq.write_table(table.append_column(part_column("short"), pa.array([0.5] * table.num_rows)), path)
    commit = path.parent / ".COMMIT.json"

    def size(document: dict[str, Any]) -> None:
        sizes = {entry["path"]: entry for entry in document["files"]}
        sizes[path.name]["num_bytes"] = path.stat().st_size

    rewrite(commit, size)
    found = scan(Store.open(run_copy), "rewards").to_table(columns=["round", "reward_short"]).to_pydict()
    assert found == {"round": [1] * 44 + [2] * 44, "reward_short": [None] * 44 + [0.5] * 44}
    assert math.isclose(rows(Store.open(run_copy), "select sum(reward_short) from rewards")[0][0], 22.0)
