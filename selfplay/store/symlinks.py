"""Symbolic links inside a run directory: there are none, and none is followed. Who plants one where a file or folder of the run
stands would have another place read, written or emptied.

What lies at the run's top and is no part of it is the user's, and on an attempt's logs (a tracker may put links beside them) no
row depends: links there are let be. Hard links, which a fork makes, are files like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from selfplay.core.errors import CorruptionError
from selfplay.store.layout import Layout

HINT = (
    "Remove it and put the file or folder itself in its place (a run holds its own files), or restore it from a backup."
)


def forbid_symlinks(path: Path, root: Path) -> None:
    """Raise CorruptionError where `path`, or a folder between it and `root`, is a symbolic link. (`root` itself may be one.)"""
    while path not in (root, path.parent):
        if path.is_symlink():
            raise CorruptionError(f"{path} is a symbolic link", HINT)
        path = path.parent


def symlinks_in_run(layout: Layout) -> Iterator[Path]:
    """Every symbolic link among a run's own files and folders, none followed."""
    for path in (layout.identity, layout.lock, layout.config, layout.attempts, layout.rounds, layout.work):
        if path.is_symlink():
            yield path
        elif path == layout.attempts:
            yield from _symlinks_in_attempts(path)
        elif path.is_dir():
            yield from symlinks_below(path)


def _symlinks_in_attempts(attempts: Path) -> Iterator[Path]:
    """Links in the place of an attempt or of one of the two files that are read."""
    for attempt in sorted(attempts.iterdir()) if attempts.is_dir() else ():
        places = [attempt] if attempt.is_symlink() else [attempt / "attempt.json", attempt / "end.json"]
        yield from (path for path in places if path.is_symlink())


def symlinks_below(root: Path) -> Iterator[Path]:
    """Every symbolic link below a folder, none followed."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (path for path in (Path(folder, name) for name in sorted((*folders, *names))) if path.is_symlink())


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, links (to folders too) included and not followed."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        linked = [name for name in folders if Path(path, name).is_symlink()]
        yield from (Path(path, name) for name in sorted((*names, *linked)))
