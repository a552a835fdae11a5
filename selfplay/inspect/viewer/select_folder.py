"""The folder that `select` wrote, as the viewer reads it: `kept` and `dropped` as one table, and the summary."""

from __future__ import annotations

from typing import Any

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.core.json_text import parse_json
from selfplay.inspect.viewer.cache import Cache
from selfplay.inspect.viewer.catalogue import RunEntry
from selfplay.inspect.viewer.rows import RowSet
from selfplay.store.durable import read_file
from selfplay.store.layout import SUMMARY_SCHEMA
from selfplay.store.lazy_table import LazyTable, Part
from selfplay.store.manifest import Manifest
from selfplay.store.result_folder import read_result

_TABLES = ("kept", "dropped")


def pairs_of(entry: RunEntry, cache: Cache) -> RowSet:
    """The pairs, kept ones first (by rank), then the others in the order of the dataset. Raises CorruptionError."""
    commit = _commit(entry)
    files = commit.files
    parts: list[Part] = []
    for table in _TABLES:
        if any(file.path.startswith(f"{table}/") and file.rows is not None for file in files):
            first = parts[-1].first + parts[-1].num_rows if parts else 0
            found = LazyTable.of(entry.path, files, table)
            parts += [Part(part.path, first + part.first, part.num_rows) for part in found.parts]
    if not parts:
        raise CorruptionError(
            f"{entry.path} has neither kept nor dropped pairs", f"Delete {entry.path} and run `selfplay select` again."
        )
    return RowSet(commit.digest, LazyTable(entry.path, tuple(parts)), cache)


def summary_of(entry: RunEntry) -> dict[str, Any]:
    """summary.json. Raises CorruptionError, SelfplayError for that of a newer version."""
    path = entry.path / "summary.json"
    try:
        summary = parse_json(read_file(path))
        schema = int(summary["schema"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptionError(
            f"{path} is damaged ({error})", f"Delete {entry.path} and run `selfplay select` again."
        ) from None
    if schema > SUMMARY_SCHEMA:
        raise SelfplayError(f"{entry.path} was written by a newer selfplay", "Upgrade selfplay.")
    return dict(summary)


def _commit(entry: RunEntry) -> Manifest:
    commit = read_result(entry.path)
    if commit is None:
        raise CorruptionError(f"{entry.path} has no commit", f"Delete {entry.path} and run `selfplay select` again.")
    return commit
