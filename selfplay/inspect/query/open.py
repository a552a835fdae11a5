"""Opening what the commands look at: a run, or a folder that `selfplay select` wrote."""

from __future__ import annotations

from pathlib import Path

from selfplay.store.layout import RECORD, Layout
from selfplay.store.run import Store
from selfplay.store.symlinks import forbid_symlinks


def run_root(place: Path) -> Path:
    """Where the run directory is: the folder itself, or the record of a selection in it. Raises CorruptionError for a record that
    is a symbolic link."""
    forbid_symlinks(place / RECORD, place)
    return place / RECORD if Layout(place / RECORD).identity.is_file() else place


def open_store(place: Path) -> Store:
    """The store in a folder, for reading. Raises ConfigError where there is no run, CorruptionError."""
    return Store.open(run_root(place))
