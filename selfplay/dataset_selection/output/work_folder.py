"""The work folder of a selection: `.work/` in its output folder, where what was computed is kept shard by shard.

A killed `select` goes on where it was. The folder says what it is of (settings and content digests): other data, models or
ways to compute are refused with a diff, another metric or cut of the same pairs takes up what was computed. What stands in it
is scratch: it goes when the result is committed, and when a command is refused before anything was computed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfplay.core.errors import ConfigError, CorruptionError, DriftError, LockedError
from selfplay.store import durable
from selfplay.store.layout import COMMIT, Layout
from selfplay.store.lock import RunLock
from selfplay.store.result_folder import ResultWriter, read_result
from selfplay.store.writer import StageInputs, StageWriter

IDENTITY = "SELECT.json"
KIND = "selfplay select"


class WorkFolder:
    """The work folder of the selection into `root`, held by `holding`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".work"
        self._is_new = not root.exists()
        self._fingerprint = ""

    def has_leftovers(self) -> bool:
        """Whether a finished selection was killed before its scratch was gone: `holding` takes it away."""
        return any(self.root.glob(".work")) or any(self.root.glob(".trash-*"))

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the folder against a second writer. Raises ConfigError for a folder of something else, LockedError."""
        self._refuse_occupied()
        durable.make_folder(self.folder)
        lock = RunLock(self.folder / "lock")
        try:
            with durable.translating_errors(self.folder / "lock"):
                lock.__enter__()
        except LockedError as error:
            raise LockedError(
                f"another `selfplay select` is writing into {self.root}", "Wait for it, or give another --out."
            ) from error
        useless = False
        try:
            yield
        except ConfigError:
            useless = not any(self.folder.rglob("*.parquet"))
            raise
        finally:
            lock.__exit__(None, None, None)
            if useless or (self.root / COMMIT).is_file():
                durable.remove_tree(self.folder)
            if useless and self._is_new:
                durable.operations.rmdir(self.root)

    def begin(self, identity: Mapping[str, Any]) -> bool:
        """Take the folder for what is to be computed; True where an earlier attempt at it is gone on with. `identity` is
        without what only ranks and cuts. Raises DriftError where the folder is of another selection."""
        path = self.folder / IDENTITY
        self._fingerprint = durable.sha256_bytes(durable.canonical_json(identity))
        if path.is_file():
            try:
                before = json.loads(path.read_bytes())
            except ValueError as error:
                raise CorruptionError(f"{path} is damaged ({error})", f"Remove {self.root} and start again.") from None
            refuse_drift(self.root, before, identity, "was begun")
            return True
        durable.write_file(path, durable.pretty_json(dict(identity)))
        return False

    def stage(self, name: str) -> StageWriter:
        """The shards of one computation; those that an earlier attempt kept are adopted."""
        return StageWriter(Layout(self.root), 0, name, StageInputs(self._fingerprint, {}))

    def output(self) -> ResultWriter:
        """Where the result is written; its commit publishes it."""
        return ResultWriter(self.root, self.folder / "output")

    def _refuse_occupied(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise ConfigError(f"--out {self.root} is a file", "Give a folder that is not there yet.")
        names = {path.name for path in self.root.iterdir()}
        if names <= {".work", ".trash-.work"} or COMMIT in names or (self.folder / IDENTITY).is_file():
            return
        raise ConfigError(
            f"{self.root} is there already and is not empty: it holds {', '.join(sorted(names)[:3])}",
            "Give another --out, or empty it.",
        )


def finished(root: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The commit of the same selection where it stands finished at `root`, None where nothing is finished there. Raises
    DriftError where another one stands there, ConfigError where it is something else of ours."""
    commit = read_result(root)
    if commit is None:
        return None
    if commit.get("kind") != KIND:
        raise ConfigError(f"{root} holds something else ({COMMIT} in it is no selection's)", "Give another --out.")
    refuse_drift(root, commit["identity"], identity, "was made")
    return commit


def refuse_drift(root: Path, before: Mapping[str, Any], now: Mapping[str, Any], how: str) -> None:
    """Raise DriftError with a diff unless both identities are equal."""
    lines = [
        f"{name}: {_shown(name, old)} -> {_shown(name, new)}"
        for name, old, new in _differences(before["settings"], now["settings"])
    ]
    lines += [
        f"the content of {name} has changed (sha256 {str(old)[:12]} -> {str(new)[:12]})"
        for name, old, new in _differences(before["content"], now["content"])
    ]
    if before["version"] != now["version"]:
        lines.append(f"selfplay: {before['version']} -> {now['version']}")
    if lines:
        raise DriftError(
            f"{root} {how} with other settings:\n    " + "\n    ".join(lines),
            "Give another --out, or remove this one.",
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of what differs; of two sections only the settings in them that do (`pairs.build`)."""
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [(f"{name}.{inner}", first, second) for inner, first, second in _differences(old, new)]
        elif old != new:
            found.append((name, old, new))
    return found


def _shown(name: str, value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
