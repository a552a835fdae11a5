"""The comparison of a folder with its list of files, and what a list may name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from selfplay.store.manifest import Damage, FileEntry, check_files, hash_files, read_manifest, write_manifest
from tests.helpers.sealing import rewrite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "inner").mkdir(parents=True)
    (root / "a").write_text("content")
    (root / "inner/b").write_text("more")
    return root


def kinds(found: Any) -> list[tuple[str, str]]:
    return [(item.kind, item.path.name) for item in found]


def test_one_file_of_a_folder_is_looked_at_without_following_links(folder: Path, tmp_path: Path) -> None:
    """Also where only that file is listed: the folder is not walked then."""
    listed = [entry for entry in hash_files(folder) if entry.path == "a"]
    assert list(check_files(folder, listed, digests=True)) == []
    (folder / "a").rename(tmp_path / "elsewhere")
    for make in (
        lambda: (folder / "a").symlink_to(tmp_path / "elsewhere"),
        lambda: (folder / "a").mkdir(),
        lambda: os.mkfifo(folder / "a"),
    ):
        make()
        assert list(check_files(folder, listed, digests=True)) == [Damage("missing", folder / "a", "is missing")]
        (folder / "a").rmdir() if (folder / "a").is_dir() else (folder / "a").unlink()
    assert kinds(check_files(folder, listed)) == [("missing", "a")]


def test_a_folder_that_is_a_link_has_none_of_its_files(folder: Path, tmp_path: Path) -> None:
    listed = hash_files(folder)
    (folder / "inner").rename(tmp_path / "elsewhere")
    (folder / "inner").symlink_to(tmp_path / "elsewhere")
    assert kinds(check_files(folder, listed)) == [("missing", "b")]
    assert kinds(check_files(folder, listed, extra=True)) == [("missing", "b"), ("extra", "inner")]


def test_hidden_files_are_extra_where_those_that_are_allowed_are_named(folder: Path) -> None:
    listed = hash_files(folder)
    for name in (".SEAL.json", ".other", "inner/.hidden"):
        (folder / name).write_text("x")
    assert list(check_files(folder, listed, extra=True)) == []
    assert kinds(check_files(folder, listed, extra=True, hidden={".SEAL.json"})) == [
        ("extra", ".other"),
        ("extra", ".hidden"),
    ]


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "inner/../../a", ".", "..", "", "a/", "./a", "a\0", "inner\\b", "inner//b"]
)
def test_a_manifest_names_files_of_its_folder_only(folder: Path, name: str) -> None:
    write_manifest(folder / "list.json", {}, hash_files(folder))
    rewrite(folder / "list.json", lambda document: document["files"][0].update(path=name))
    with pytest.raises(ValueError, match="names a file outside its folder"):
        read_manifest(folder / "list.json")


def test_a_manifest_is_not_read_through_a_link(folder: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "list.json", {}, [FileEntry("a", 7, "0" * 64)])
    (folder / "list.json").symlink_to(tmp_path / "list.json")
    with pytest.raises(OSError, match="it is a symbolic link"):
        read_manifest(folder / "list.json")
