"""The runs (those of comparisons too) and results of `select` that are served, by name. A name in an address is looked up in a
listing of the folder and never becomes a path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.core.stages import STAGE_NAMES
from selfplay.inspect.reading import open_store
from selfplay.inspect.viewer.background import BackgroundJobs
from selfplay.inspect.viewer.cache import Cache
from selfplay.store.layout import COMMIT, Layout, is_run, rounds_present
from selfplay.store.run import Store
from selfplay.store.run_folders import run_folders

Kind = Literal["run", "select"]


class NotServedError(SelfplayError):
    """The address names something that does not exist."""


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run, or a folder that `select` wrote."""

    name: str
    path: Path
    kind: Kind


def kind_of(path: Path) -> Kind | None:
    """What a folder is; None: neither."""
    if is_run(path):
        return "run"
    return "select" if (path / "summary.json").is_file() and (path / COMMIT).is_file() else None


@dataclass
class Catalogue:
    """The place that was given, and what is kept of it in memory."""

    place: Path
    cache: Cache = field(default_factory=Cache)
    later: BackgroundJobs = field(default_factory=BackgroundJobs)
    _stores: dict[str, tuple[object, Store]] = field(default_factory=dict)

    @classmethod
    def of(cls, place: Path) -> Catalogue:
        """Raises ConfigError for a missing folder."""
        if not place.is_dir():
            raise ConfigError(
                f"there is no folder {place}",
                "Give a run, a folder of runs, or what `selfplay select` wrote: selfplay view runs",
            )
        return cls(Path(os.path.abspath(place)))  # noqa: PTH100  resolve() would change the name of a link

    @property
    def is_single(self) -> bool:
        """Whether one thing is served, not a folder of them."""
        return kind_of(self.place) is not None

    def entries(self) -> list[RunEntry]:
        """What there is, by name."""
        kind = kind_of(self.place)
        if kind is not None:
            return [RunEntry(self.place.name or "run", self.place, kind)]
        found = [RunEntry(name, path, "run") for name, path in run_folders(self.place)]
        with os.scandir(self.place) as listing:
            for item in listing:
                if not item.name.startswith(".") and item.is_dir() and kind_of(self.place / item.name) == "select":
                    found.append(RunEntry(item.name, self.place / item.name, "select"))
        return sorted(found, key=lambda entry: entry.name)

    def entry(self, name: str, kind: Kind) -> RunEntry:
        """The one of that name. Raises NotServedError."""
        for entry in self.entries():
            if entry.name == name and entry.kind == kind:
                return entry
        what = "run" if kind == "run" else "result of select"
        raise NotServedError(f"there is no {what} {name!r}", "The first page lists all of them.")

    def store(self, entry: RunEntry) -> Store:
        """A run opened for reading; what was read of its commits is kept as long as they are the same files.
        Raises ConfigError, CorruptionError."""
        stamp = stamp_of(Layout(entry.path))
        known = self._stores.get(entry.name)
        if known is not None and known[0] == stamp:
            return known[1]
        store = open_store(entry.path)
        self._stores[entry.name] = (stamp, store)
        return store


def stamp_of(layout: Layout) -> Mapping[str, Any]:
    """What changes when a run's commits do: identity and commits as the file system tells files apart."""
    paths = [layout.identity]
    paths += [layout.commit(number, stage) for number in rounds_present(layout) for stage in STAGE_NAMES]
    found = {}
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            continue
        found[str(path)] = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size)
    return found
