"""Questions about paths that the standard library does not answer."""

from __future__ import annotations

from pathlib import Path


def nearest_existing(path: Path) -> Path:
    """The path itself, absolute, or the nearest of its parents that exists: where `path` would be created."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
