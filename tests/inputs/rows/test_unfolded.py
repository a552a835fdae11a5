"""Datasets that unfold to far more than their files have: refused with a message of its own, and little memory."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.rows import source, unfolded
from selfplay.inputs.rows.source import open_source
from selfplay.store import unfolding

MB = 1 << 20


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfolding, "MAX_BYTES", 8 * MB)
    monkeypatch.setattr(unfolding, "_CLOSE", MB)
    monkeypatch.setattr(unfolded, "MAX_LINE", 4 * MB)
    monkeypatch.setattr(source, "MAX_LINE", 4 * MB)


ROW = json.dumps({"prompt": "p" * 500, "chosen": "c", "rejected": "r"}).encode() + b"\n"
LONG = b'{"prompt":"' + b"a" * (12 * MB) + b'","chosen":"c","rejected":"r"}\n'
REPEATED = pa.table({"prompt": pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array(["a" * MB]))})


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def parquet(path: Path) -> None:
    pq.write_table(REPEATED, path, compression="zstd", dictionary_pagesize_limit=1 << 30, write_statistics=False)


def arrow(path: Path) -> None:
    feather.write_feather(REPEATED, str(path), compression="zstd")


def packed_parquet(path: Path) -> None:
    parquet(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


MADE: dict[str, Any] = {
    "long line.jsonl": lambda path: path.write_bytes(LONG),
    "long line.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LONG)),
    "many lines.jsonl.gz": lambda path: path.write_bytes(gzip.compress(ROW * 40_000)),
    "many lines.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(ROW * 40_000)),
    "document.json.gz": lambda path: path.write_bytes(gzip.compress(b"[" + LONG + b"]")),
    "lists.json.gz": lambda path: path.write_bytes(gzip.compress(b"[" + b"[]," * (5 * MB) + b"[]]")),
    "field.csv": lambda path: path.write_bytes(b"prompt,chosen,rejected\n" + b"a" * (12 * MB) + b",c,r\n"),
    "quoted.csv": lambda path: path.write_bytes(
        b'prompt,chosen,rejected\n"' + (b"a" * 500 + b"\n") * 20_000 + b'",c,r\n'
    ),
    "header.csv.gz": lambda path: path.write_bytes(gzip.compress(b"a" * (12 * MB) + b"\n")),
    "rows.tsv.gz": lambda path: path.write_bytes(gzip.compress(b"prompt\tchosen\n" + (b"a" * 500 + b"\tb\n") * 40_000)),
    "table.parquet": parquet,
    "table.parquet.gz": packed_parquet,
    "table.arrow": arrow,
}


@pytest.mark.parametrize("name", MADE)
def test_what_unfolds_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    MADE[name](path)
    with pytest.raises(
        DataError, match=r"is not read: it (unfolds to|has a (line|field) of more than 4 MB)"
    ) as refused:
        for _ in open_source(str(path)).rows():
            pass
    assert str(path) in refused.value.message


@pytest.mark.parametrize("name", ["many lines.jsonl.gz", "table.parquet", "document.json.gz"])
def test_and_takes_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    MADE[name](path)
    tracemalloc.start()
    with pytest.raises(DataError):
        sum(1 for _ in open_source(str(path)).rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MB


def test_ordinary_files_of_every_format_are_read(tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"question {index} " * 20 for index in range(3000)]})
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.csv.bz2").write_bytes(bz2.compress(b"prompt\r\n" + b'"a\r\nb"\r\n' * 3000))
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=1000)
    (tmp_path / "e.parquet.gz").write_bytes(gzip.compress((tmp_path / "d.parquet").read_bytes()))
    feather.write_feather(table, str(tmp_path / "f.arrow"), compression="lz4")
    for path in sorted(tmp_path.iterdir()):
        rows = list(open_source(str(path)).rows())
        assert [row.row for row in rows] == list(range(1, 3001)), path
        assert all(row.problem is None for row in rows)
    assert rows[-1].values == {"prompt": "question 2999 " * 20}


@pytest.mark.parametrize("depth", [200, 900, 100_000])
def test_a_row_that_is_nested_beyond_reason_is_one_bad_row(tmp_path: Path, depth: int) -> None:
    deep = '{"prompt": ' + "[" * depth + "]" * depth + "}\n"
    (tmp_path / "a.jsonl").write_text(ROW.decode() + deep + ROW.decode())
    rows = list(open_source(str(tmp_path / "a.jsonl")).rows())
    assert [row.problem is None for row in rows] == [True, False, True]
    assert "nested" in str(rows[1].problem)


@pytest.mark.parametrize("name", ["../outside.arrow", "/etc/passwd", "inner/../x.arrow", "", ".", None, 7])
def test_a_saved_dataset_names_files_beside_its_state_only(tmp_path: Path, name: Any) -> None:
    (tmp_path / "outside.arrow").write_bytes(b"x")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"which is not a file beside it|has no"):
        open_source(str(folder))


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"_data_files": 1}', "[" * 5000, '{"_data_files": ["x"]}'])
def test_a_state_that_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state\.json"):
        open_source(str(tmp_path))


def test_splits_of_a_saved_dataset_are_folders_beside_its_list(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(DataError, match="names a split that is not a folder beside it"):
        open_source(str(tmp_path), "../elsewhere")


def test_a_json_document_of_gigabytes_is_not_read_as_a_whole(tmp_path: Path) -> None:
    """Also a sparse one, which takes no room on the disk."""
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(DataError, match="more than 2 GB"):
        list(open_source(str(tmp_path / "a.json")).rows())
