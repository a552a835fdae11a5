"""Writing so that a crash leaves the old state or the new one."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.errors import SelfplayError
from selfplay.store import durable


def test_canonical_json_is_one_spelling_and_refuses_nan() -> None:
    assert durable.canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            durable.canonical_json({"x": value})
        with pytest.raises(ValueError, match="not JSON compliant"):
            durable.pretty_json({"x": value})


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert durable.sha256_file(tmp_path / "file") == durable.sha256_bytes(b"abc" * 100_000)


def test_write_file_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    durable.write_file(tmp_path / ".mark.json", b"old and longer")
    durable.write_file(tmp_path / ".mark.json", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {".mark.json": b"new"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    durable.write_file(tmp_path / "file", b"old")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if step == "fsync" else monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(
        SelfplayError, match=r"could not write .*file \(2\.0 MB\): No space left on device; \d+ MB are free"
    ) as error:
        durable.write_file(tmp_path / "file", b"x" * 2_000_000)
    assert "resume" in error.value.hint
    assert (tmp_path / "file").read_bytes() == b"old"


def test_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match="No such file or directory"):
        durable.write_file(tmp_path / "none" / "file", b"")


def test_make_folder_makes_parents_and_is_content_with_what_is_there(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a/b/c")
    durable.make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()


def test_parquet_bytes_are_the_same_for_the_same_rows() -> None:
    table = pa.table({"x": pa.array([1, 2, None]), "text": ["a", "é", ""]})
    data = durable.encode_parquet(table)
    assert data == durable.encode_parquet(table)
    assert pq.read_table(pa.BufferReader(data)).equals(table)


def test_publish_moves_a_folder_and_never_overwrites(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    target = tmp_path / "rounds/001/sample"
    durable.publish_folder(tmp_path / "first", target)
    with pytest.raises(SelfplayError, match="is there already"):
        durable.publish_folder(tmp_path / "second", target)
    assert (target / "file").read_text() == "first"
    assert (tmp_path / "second/file").read_text() == "second"
    # an empty folder would be replaced by a rename without a word
    (tmp_path / "empty").mkdir()
    with pytest.raises(SelfplayError, match="is there already"):
        durable.publish_folder(tmp_path / "second", tmp_path / "empty")


def test_remove_tree_takes_what_a_crash_left_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> Path:
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch/file").touch()
        return tmp_path / "scratch"

    def crash(path: Path) -> None:
        raise KeyboardInterrupt

    folder = fill()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable.shutil, "rmtree", crash)
        durable.remove_tree(folder)
    assert not folder.exists()
    durable.remove_tree(fill())
    assert [*tmp_path.iterdir()] == []
    durable.remove_tree(folder)
