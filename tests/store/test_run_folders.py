"""Runs in a folder, in a comparison and in a folder with comparisons."""

from __future__ import annotations

from pathlib import Path

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


def test_pools(tmp_path: Path) -> None:
    root = place(tmp_path)
    assert is_comparison(root / "cmp") and not is_comparison(root)
    assert is_pool(root / "cmp/runs/seed-1/pool")
    assert (
        not is_pool(root / "cmp/runs/seed-1/random") and not is_pool(root / "other/pool") and not is_pool(Path("/pool"))
    )
