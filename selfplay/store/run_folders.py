"""Which folders hold runs: a folder of runs, a comparison's folder, and a folder with comparisons in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfplay.store.layout import COMPARISON, POOL, is_run
from selfplay.store.symlinks import forbid_symlinks


def run_folders(place: Path) -> list[tuple[str, Path]]:
    """The runs below `place` with their names, by name: its own folders, and those of comparisons as `COMPARISON:BLOCK:ARM`
    (`BLOCK:ARM` where `place` is the comparison). Hidden folders are left out. Nothing is read but names. What `place` holds may
    be a link; raises CorruptionError for one inside a comparison."""
    return sorted(_runs(place))


def is_comparison(folder: Path) -> bool:
    """Whether `selfplay compare` writes into a folder."""
    return (folder / COMPARISON).is_file()


def is_pool(root: Path) -> bool:
    """Whether a run is a pool of a comparison, which its arms are forked from: OUT/runs/BLOCK/pool or pool-HASH."""
    named = root.name == POOL or root.name.startswith(f"{POOL}-")
    return named and len(root.parents) > 2 and is_comparison(root.parents[2])


def _runs(place: Path) -> Iterator[tuple[str, Path]]:
    if is_comparison(place):
        for block in _own_folders(place / "runs", place):
            yield from ((f"{block.name}:{arm.name}", arm) for arm in _own_folders(block, place) if is_run(arm))
        return
    for folder in _folders(place):
        if is_run(folder):
            yield folder.name, folder
        elif is_comparison(folder):
            yield from ((f"{folder.name}:{name}", path) for name, path in _runs(folder))


def _own_folders(place: Path, comparison: Path) -> list[Path]:
    """Folders that `compare` made, which are no links."""
    forbid_symlinks(place, comparison)
    found = _folders(place)
    for folder in found:
        forbid_symlinks(folder, comparison)
    return found


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return [path for path in place.iterdir() if not path.name.startswith(".") and path.is_dir()]
