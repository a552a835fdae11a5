"""Symbolic links inside a run directory are refused and never followed: a link in the place of a file or folder of the run would
have another place read, written or emptied.

Links beside the run's own files at its top level, and beside the logs of an attempt (a tracker may create some), are ignored.
Hard links, which a fork creates, are ordinary files.
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


def forbid_symlinks_below(folder: Path, root: Path) -> None:
    """See `forbid_symlinks`; also for everything below `folder`."""
    for path in (folder, *symlinks_below(folder)):
        forbid_symlinks(path, root)


def symlinks_in_run(layout: Layout) -> Iterator[Path]:
    """Every symbolic link among a run's own files and folders, none followed."""
    for path in (layout.identity, layout.lock, layout.config, layout.attempts, layout.rounds, layout.work):
        if path.is_symlink():
            yield path
        elif path == layout.attempts and path.is_dir():
            with os.scandir(path) as entries:
                folders = sorted(entry.path for entry in entries)
            for folder in folders:  # what is read of an attempt
                names = (folder, f"{folder}/attempt.json", f"{folder}/end.json")
                yield from (Path(name) for name in names if os.path.islink(name))  # noqa: PTH114 - there may be many
        elif path.is_dir():
            yield from symlinks_below(path)


def symlinks_below(root: Path) -> Iterator[Path]:
    """Every symbolic link below a folder, none followed."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        paths = (os.path.join(folder, name) for name in sorted((*folders, *names)))  # noqa: PTH118 - twice as fast
        yield from (Path(path) for path in paths if os.path.islink(path))  # noqa: PTH114
