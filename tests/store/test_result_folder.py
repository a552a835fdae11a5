"""A folder of results outside a run: complete or without a commit, and checked when it is looked at again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.store.result_folder import ResultWriter, read_result

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})


def written(root: Path) -> ResultWriter:
    root.mkdir(exist_ok=True)
    writer = ResultWriter(root, root / ".work" / "output")
    writer.add("README.md", b"hello\n")
    writer.add_pieces("more/lines.jsonl", [b"1\n", b"2\n"])
    writer.add_parquet("kept/part-00000.parquet", TABLE.schema, [TABLE.slice(0, 2), TABLE.slice(2)], compression="lz4")
    return writer


def test_a_commit_lists_every_file_with_size_digest_and_rows(tmp_path: Path) -> None:
    root = tmp_path / "out"
    writer = written(root)
    assert read_result(root) is None
    assert not (root / "kept").exists()
    writer.commit({"kind": "test"})
    manifest = read_result(root)
    assert manifest is not None
    assert manifest.facts == {"kind": "test"}
    assert [(entry.path, entry.rows) for entry in manifest.files] == [
        ("README.md", None), ("kept/part-00000.parquet", 3), ("more/lines.jsonl", None),
    ]  # fmt: skip
    for entry in manifest.files:
        data = (root / entry.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.num_bytes, entry.sha256)
    found = pq.ParquetFile(root / "kept/part-00000.parquet")
    assert found.read().equals(TABLE)
    assert found.num_row_groups == 2


@pytest.mark.parametrize("injury", ["missing", "short", "damaged"])
def test_an_injured_folder_is_named(tmp_path: Path, injury: str) -> None:
    root = tmp_path / "out"
    written(root).commit({})
    if injury == "missing":
        (root / "README.md").unlink()
    elif injury == "short":
        (root / "README.md").write_bytes(b"hell")
    else:
        (root / ".COMMIT.json").write_bytes(b"{")
    with pytest.raises(CorruptionError, match=r"README|COMMIT") as found:
        read_result(root)
    assert "Delete" in found.value.hint


def test_a_newer_version_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "out"
    written(root).commit({})
    path = root / ".COMMIT.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(SelfplayError, match="newer"):
        read_result(root)


def test_a_full_disk_names_file_and_size(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path, tmp_path / ".work")
    (tmp_path / ".work" / "full").symlink_to("/dev/full")
    with pytest.raises(SelfplayError, match=r"could not write .*full"):
        writer.add("full", b"x" * 10)
