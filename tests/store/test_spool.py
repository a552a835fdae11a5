from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from selfplay.core.errors import SelfplayError
from selfplay.store import spool
from selfplay.store.spool import Spool, SpooledTable, release_pages


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", 1000)


def blocks() -> list[pa.RecordBatch]:
    return [
        pa.RecordBatch.from_pydict(
            {"id": np.arange(start, start + 100), "text": [f"text {start + n}" for n in range(100)]}
        )
        for start in range(0, 1000, 100)
    ]


def made(folder: Path | None) -> pa.Table:
    table = SpooledTable(blocks()[0].schema, None if folder is None else Spool(folder))
    for block in blocks():
        table.append(block)
    return table.done()


def test_a_spooled_table_is_equal_to_one_in_memory_and_its_file_has_no_name(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    table = made(tmp_path / "not/there/yet")
    assert pa.total_allocated_bytes() - before < table.nbytes  # mapped, not read
    assert table.equals(made(None)) and not list(tmp_path.iterdir())
    release_pages()
    assert table["text"].to_pylist()[-1] == "text 999"


def test_rows_are_taken_out_block_by_block(tmp_path: Path) -> None:
    table = made(tmp_path)
    mask = pa.array(np.arange(1000) % 3 == 0)
    kept = Spool(tmp_path).filtered(table, mask)
    del table
    assert kept.equals(made(None).filter(mask))


def test_a_small_table_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o500)
    table = SpooledTable(blocks()[0].schema, Spool(folder))
    table.append(blocks()[0].slice(0, 10))
    assert table.done().num_rows == 10
    assert SpooledTable(blocks()[0].schema, Spool(folder)).done().num_rows == 0


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
    with pytest.raises(SelfplayError, match=f"could not write {tmp_path} .*: No space left"):
        made(tmp_path)
