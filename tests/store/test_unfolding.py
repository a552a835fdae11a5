"""A file of some kilobytes that holds gigabytes is refused before it is read; one that is only large is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.inputs.rows.source import open_source
from selfplay.store import unfolding
from selfplay.store.durable import encode_parquet
from selfplay.store.lazy_table import LazyTable, Part
from selfplay.store.unfolding import MemoryBudget, UnfoldingError

MB = 1 << 20


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfolding, "MAX_BYTES", 8 * MB)
    monkeypatch.setattr(unfolding, "_CLOSE", MB)


def charge(path: Path, columns: list[str] | None = None) -> None:
    budget = MemoryBudget([path])
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        budget.check_row_group(path, metadata, group, columns)
        with pq.ParquetFile(path) as file:
            budget.charge_table(file.read_row_group(group, columns=columns))


def written(path: Path, table: pa.Table, **options: Any) -> Path:
    options = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30, "write_statistics": False, **options}
    pq.write_table(table, path, **options)
    assert path.stat().st_size < 100_000, "it is small"
    return path


LONG = "a" * (2 * MB)
REPEATED = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([LONG]))
MESSAGES = pa.ListArray.from_arrays(
    pa.array([0, 0, *range(1, 1001)], pa.int32()),
    pa.StructArray.from_arrays([pa.array(["user"] * 1000), REPEATED], ["role", "content"]),
)


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize(
    "column",
    [
        REPEATED,
        pa.DictionaryArray.from_arrays(pa.array([None, *[1] * 999, 0], pa.int32()), pa.array([LONG, LONG + "b"])),
        MESSAGES,
        pa.ListArray.from_arrays(pa.array([0, 1000], pa.int32()), REPEATED),
        REPEATED.cast(pa.dictionary(pa.int32(), pa.binary())),
        pa.array([b"a" * (MB // 4)] * 100, pa.binary(MB // 4)),
        pa.array(["a" * (100 * MB)]),
        pa.array([7] * 3_000_000),
        pa.array([None] * 3_000_000, pa.float64()),
    ],
    ids=[
        "a dictionary",
        "after null",
        "nested",
        "all in one row",
        "bytes",
        "bytes of one width",
        "one value",
        "a number",
        "nulls",
    ],
)
def test_what_unfolds_is_refused(tmp_path: Path, column: pa.Array, store_schema: bool) -> None:
    path = written(tmp_path / "t.parquet", pa.table({"a.b": column}), store_schema=store_schema)
    with pytest.raises(UnfoldingError, match=r"it unfolds to [0-9.]+ GB or more; 0.0 GB are allowed"):
        charge(path)
    with pytest.raises(UnfoldingError):
        charge(path, ["a.b"])
    charge(path, ["other"])


def test_values_that_share_their_beginnings(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{LONG}{index}" for index in range(40)]})
    encoding = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    with pytest.raises(UnfoldingError):
        charge(written(tmp_path / "t.parquet", table, **encoding))


def test_a_large_file_has_a_limit_of_its_own(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{LONG}{index}" for index in range(40)]})
    encoding = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    path, other = written(tmp_path / "t.parquet", table, **encoding), tmp_path / "other"
    other.write_bytes(bytes(200_000))
    budget = MemoryBudget([path, other])
    assert unfolding.MAX_BYTES < budget.limit < table.nbytes
    with pytest.raises(UnfoldingError):
        budget.check_row_group(path, pq.read_metadata(path), 0, None)


def test_many_numbers_beside_short_texts_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {f"number {index}": [float(index)] * 60_000 for index in range(6)}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [f"pair-{index:08}" for index in range(60_000)], **numbers}), path)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    MemoryBudget([path]).check_row_group(path, pq.read_metadata(path), 0, None)


def test_several_row_groups_count_together(tmp_path: Path) -> None:
    table = pa.table({"text": ["a" * MB] * 20})
    with pytest.raises(UnfoldingError):
        charge(written(tmp_path / "t.parquet", table, row_group_size=2))


def test_many_small_row_groups_are_counted_by_what_they_take(tmp_path: Path) -> None:
    """A round of many prompts has a shard for every 64 of them, and files of others have row groups of a few hundred rows."""
    ids = [f"{index:08}-r001-0" for index in range(20_000)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ids, "number": [0.0] * len(ids)}), path, row_group_size=100)
    charge(path)
    assert sum(1 for _ in open_source(str(path)).tables()) == 200
    parts = [tmp_path / f"part-{index:05}.parquet" for index in range(200)]
    for index, part in enumerate(parts):
        pq.write_table(pa.table({"id": ids[100 * index : 100 * index + 100]}), part)
    table = LazyTable(tmp_path, tuple(Part(part, 100 * index, 100) for index, part in enumerate(parts)))
    assert table.read_all()["id"].to_pylist() == ids
    assert table.sample(["id"], 15_000).num_rows >= 15_000


def test_many_parts_that_unfold_count_together(tmp_path: Path) -> None:
    parts = [written(tmp_path / f"{index}.parquet", pa.table({"text": [LONG]})) for index in range(5)]
    table = LazyTable(tmp_path, tuple(Part(part, index, 1) for index, part in enumerate(parts)))
    for part in table.parts:
        table.read(part)
    with pytest.raises(CorruptionError, match="unfolds"):
        table.read_all()
    with pytest.raises(CorruptionError, match="unfolds"):
        table.sample(["text"], 4)


def test_what_is_only_large_is_read(tmp_path: Path) -> None:
    """As selfplay writes it: texts that hardly repeat, one long one among them, ids, messages."""
    texts = [f"{index} " * 50 for index in range(20_000)] + [LONG[: MB // 2]]
    messages = [[{"role": "user", "content": text}] for text in texts]
    table = pa.table({"id": [f"{index:020d}" for index in range(len(texts))], "text": texts, "prompt": messages})
    path = tmp_path / "t.parquet"
    path.write_bytes(encode_parquet(table))
    assert table.nbytes > 1.5 * 8 * MB
    charge(path)


def test_arrow_tables_are_measured_value_by_value() -> None:
    views = pa.concat_arrays([pa.array(["a" * MB, None]).cast(pa.string_view())] * 20)
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([1000], pa.int32()), pa.array(["a" * MB]))
    for column in (REPEATED, MESSAGES, views, ends, pa.chunked_array([REPEATED.slice(0, 2)] * 10)):
        with pytest.raises(UnfoldingError):
            MemoryBudget([]).charge_table(pa.table({"text": column}))
    MemoryBudget([]).charge_table(pa.table({"text": ["a" * MB] * 3, "number": [1, 2, 3]}))
