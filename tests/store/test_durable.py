"""Writing so that a crash leaves the old state or the new one."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import SelfplayError
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


@pytest.mark.parametrize("step", ["create", "write", "fsync", "rename"])
@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        (errno.ENOSPC, "Make room on the disk (this file takes 2.0 MB, those that follow more)"),
        (errno.EDQUOT, "Make room on your quota (this file takes 2.0 MB"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "writable"),
        (errno.EIO, "The disk failed"),
        (errno.ENAMETOOLONG, "Check "),
    ],
)
def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, way_out: str
) -> None:
    durable.write_file(tmp_path / "file", b"old")

    def fail(operation: str, path: Path, index: int) -> None:
        if operation == step:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable, "operations", durable.Operations(before=fail))
    with pytest.raises(
        SelfplayError, match=rf"could not write .*file \(2\.0 MB\): {os.strerror(code)}; \d+ MB are free"
    ) as error:
        durable.write_file(tmp_path / "file", b"x" * 2_000_000)
    assert way_out in error.value.hint
    assert "resume" in error.value.hint
    assert (tmp_path / "file").read_bytes() == b"old"


def test_hooks_see_every_operation_in_order_around_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, int, bool]] = []

    def shown(path: Path) -> str:
        return re.sub(r"(\.tmp-.*)-[0-9a-f]{8}$", r"\1", path.name)

    def before(operation: str, path: Path, index: int) -> None:
        seen.append((operation, shown(path), index, path.exists()))

    def after(operation: str, path: Path, index: int) -> None:
        assert (operation, shown(path), index) == seen[-1][:3]
        seen[-1] += (path.exists(),)  # type: ignore[assignment]

    monkeypatch.setattr(durable, "operations", durable.Operations(before, after))
    root = tmp_path / "run"
    durable.make_folder(root)
    durable.write_file(root / "a", b"1")
    durable.link_tree(root, tmp_path / "twin")
    durable.publish_folder(tmp_path / "twin", tmp_path / "final")
    durable.remove_tree(tmp_path / "final")
    assert seen == [
        (operation, name, index, *there)
        for index, (operation, name, there) in enumerate(
            [
                ("mkdir", "run", (False, True)),
                ("fsync_folder", tmp_path.name, (True, True)),
                ("create", ".tmp-a", (False, True)),
                ("write", ".tmp-a", (True, True)),
                ("fsync", ".tmp-a", (True, True)),
                ("rename", "a", (False, True)),
                ("fsync_folder", "run", (True, True)),
                ("mkdir", "twin", (False, True)),
                ("link", "a", (False, True)),
                ("fsync_folder", "twin", (True, True)),
                ("rename", "final", (False, True)),
                ("fsync_folder", tmp_path.name, (True, True)),
                ("fsync_folder", tmp_path.name, (True, True)),
                ("rename", ".trash-final", (False, True)),
                ("fsync_folder", tmp_path.name, (True, True)),
                ("unlink", "a", (True, False)),
                ("rmdir", ".trash-final", (True, False)),
            ]
        )
    ]


def test_a_folder_that_another_thread_makes_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_it_first(operation: str, path: Path, index: int) -> None:
        if operation == "mkdir":
            path.mkdir()

    monkeypatch.setattr(durable, "operations", durable.Operations(before=make_it_first))
    durable.make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_a_file_first(operation: str, path: Path, index: int) -> None:
        path.write_text("")

    monkeypatch.setattr(durable, "operations", durable.Operations(before=write_a_file_first))
    with pytest.raises(SelfplayError, match="File exists"):
        durable.make_folder(tmp_path / "a")


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
    with pytest.raises(SelfplayError, match="exists already"):
        durable.publish_folder(tmp_path / "second", target)
    assert (target / "file").read_text() == "first"
    assert (tmp_path / "second/file").read_text() == "second"
    # an empty folder would be replaced by a rename without a word
    (tmp_path / "empty").mkdir()
    with pytest.raises(SelfplayError, match="exists already"):
        durable.publish_folder(tmp_path / "second", tmp_path / "empty")


def test_row_groups_are_of_as_many_rows_as_a_page_should_read() -> None:
    def rows_in_groups(table: pa.Table) -> list[int]:
        file = pq.ParquetFile(pa.BufferReader(durable.encode_parquet(table)))
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    assert rows_in_groups(pa.table({"number": range(70_000)})) == [65_536, 4_464]
    assert rows_in_groups(pa.table({"text": ["x" * 10_000] * 2_000})) == [838, 838, 324]
    assert rows_in_groups(pa.table({"text": ["x" * 100_000] * 300})) == [256, 44]
    assert rows_in_groups(pa.table({"number": pa.array([], pa.int64())})) in ([], [0])


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_what_libraries_and_copies_made_gets_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = tmp_path / "policy"
        (folder / "templates").mkdir(parents=True)
        (folder / "templates").chmod(0o500)
        (folder / "config.json").touch()
        for name, mode in (("model.safetensors", 0o600), ("tokenizer.json", 0o777), ("vocab.txt", 0o400)):
            (folder / name).touch()
            (folder / name).chmod(mode)
        (folder / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").touch()
        (tmp_path / "elsewhere").chmod(0o640)
        durable.set_modes(folder, like=folder / "config.json")
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if not path.is_symlink()}
    finally:
        os.umask(before)
    assert found.pop("templates") == 0o777 & ~umask
    assert set(found.values()) == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each attempt has another name: on a full disk they would add up."""

    def fail(operation: str, path: Path, index: int) -> None:
        if operation == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "operations", durable.Operations(before=fail))
    for _ in range(3):
        with pytest.raises(SelfplayError, match="could not write"):
            durable.write_file(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_beside_links_and_not_through_them(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for name in ("file", ".tmp-file", ".tmp-file-00000000"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    durable.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


def test_a_small_file_is_read_only_if_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert durable.read_file(tmp_path / "file") == b"12345"
    for name, said in (("link", "symbolic link"), ("pipe", "not a regular file"), (".", "not a regular file")):
        with pytest.raises(OSError, match=said):
            durable.read_file(tmp_path / name)
    monkeypatch.setattr(durable, "MAX_SMALL", 4)
    with pytest.raises(OSError, match="it has more than"):
        durable.read_file(tmp_path / "file")


def test_a_folder_that_does_not_exist_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"there is no folder .*missing") as error:
        durable.write_file(tmp_path / "missing" / "page.html", b"x")
    assert "resume" not in error.value.hint and "MB are free" not in error.value.message
