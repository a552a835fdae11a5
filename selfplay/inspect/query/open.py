"""Opening what the commands look at: a run, or a folder that `selfplay select` wrote."""

from __future__ import annotations

from pathlib import Path

from selfplay.store.run import Store


def open_store(place: Path) -> Store:
    """The store in a folder, for reading. Raises ConfigError where there is no run, CorruptionError."""
    return Store.open(place)
