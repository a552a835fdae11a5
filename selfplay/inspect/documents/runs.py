"""The runs in a folder and the state of each (`status` without a run)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfplay.core.errors import SelfplayError
from selfplay.inspect.documents.progress import run_row
from selfplay.inspect.reading import SCHEMA_VERSION
from selfplay.store.layout import Layout
from selfplay.store.run import Store
from selfplay.store.run_folders import run_folders

# unknown for a run that cannot be read
UNKNOWN = ("rounds_done", "rounds_planned", "round", "stage", "reward", "gold", "created")


def runs_in(folder: Path) -> list[tuple[str, Path]]:
    """The runs in a folder and in comparisons there (see `run_folders`); empty if the folder is a run itself or is missing."""
    if not folder.is_dir() or Layout(folder).identity.exists():
        return []
    return run_folders(folder)


def runs_document(folder: Path) -> dict[str, Any]:
    """The document of `status --json` for a folder of runs.

    `runs`: `name`, `run` (its folder), `state`, progress and its newest evaluation. Little is read: `verify RUN`
    finds damage that needs a look into every file. A run that cannot be read is `corrupt`, with `message`.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "folder": str(folder),
        "runs": [_line(name, path) for name, path in runs_in(folder)],
    }


def _line(name: str, path: Path) -> dict[str, Any]:
    named = {"name": name, "run": str(path)}
    try:
        return {**named, **run_row(Store.open(path)), "message": None}
    except SelfplayError as error:
        return {**named, "state": "corrupt", **dict.fromkeys(UNKNOWN), "message": error.message}
