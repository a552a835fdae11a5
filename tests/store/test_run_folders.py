"""Runs in a folder, in a comparison and in a folder with comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.core.errors import CorruptionError
from selfplay.store.run_folders import is_comparison, is_pool, run_folders


def place(root: Path) -> Path:
    for name in ("a", "cmp/runs/seed-1/random", "cmp/runs/seed-1/pool", ".hidden", "other/pool"):
        (root / name).mkdir(parents=True)
        (root / name / "RUN.json").write_text("{}")
    (root / "cmp" / "compare.json").write_text("{}")
    (root / "empty").mkdir()
    return root


def test_names_and_places(tmp_path: Path) -> None:
    root = place(tmp_path)
    assert run_folders(root) == [
        ("a", root / "a"),
        ("cmp:seed-1:pool", root / "cmp/runs/seed-1/pool"),
        ("cmp:seed-1:random", root / "cmp/runs/seed-1/random"),
    ]
    assert [name for name, _ in run_folders(root / "cmp")] == ["seed-1:pool", "seed-1:random"]
    assert run_folders(root / "missing") == []


@pytest.mark.parametrize("name", ["runs", "runs/seed-1", "runs/seed-1/random"])
def test_a_comparison_has_no_links(name: str, tmp_path: Path) -> None:
    root = place(tmp_path / "place")
    linked = root / "cmp" / name
    linked.rename(tmp_path / "outside")
    linked.symlink_to(tmp_path / "outside")
    for folder in (root, root / "cmp"):
        with pytest.raises(CorruptionError, match=f"{name} is a symbolic link"):
            run_folders(folder)


def test_what_a_folder_of_runs_holds_may_be_a_link(tmp_path: Path) -> None:
    root = place(tmp_path / "place")
    for name in ("a", "cmp"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    assert [name for name, _ in run_folders(root)] == ["a", "cmp:seed-1:pool", "cmp:seed-1:random"]


def test_pools(tmp_path: Path) -> None:
    root = place(tmp_path)
    assert is_comparison(root / "cmp") and not is_comparison(root)
    assert is_pool(root / "cmp/runs/seed-1/pool")
    assert (
        not is_pool(root / "cmp/runs/seed-1/random") and not is_pool(root / "other/pool") and not is_pool(Path("/pool"))
    )
