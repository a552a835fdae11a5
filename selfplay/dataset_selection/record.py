"""The record of a selection: `.run/` in its output folder, a run directory of one round.

A killed `select` continues there, and the commands that look at runs read it. It records what it was made from (settings and
content digests): other data, models or ways to compute are refused with a diff; another metric or cut of the same pairs uses
what was computed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError, DataError, DriftError, LockedError
from selfplay.dataset_selection.needs import Needs
from selfplay.dataset_selection.settings import RANKING, SelectSettings
from selfplay.inputs.resolve import Inputs
from selfplay.store import durable
from selfplay.store.layout import COMMIT, RECORD, SELECT, Layout
from selfplay.store.lock import RunLock
from selfplay.store.result_folder import read_result
from selfplay.store.run import Store
from selfplay.store.symlinks import forbid_symlinks

KIND = "selfplay select"
_IDENTITY = "identity.json"


class Record:
    """The record of the selection into `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / RECORD
        forbid_symlinks(self.folder, root)
        self.output = Layout(self.folder).work / "output"
        """Where the result is written before it is published."""
        self._is_new = not root.exists()
        self._computed_stages: tuple[str, ...] = ()

    def revisions(self) -> dict[str, str]:
        """The commits of hub models that an earlier attempt found."""
        return Store.open(self.folder).revisions() if self._exists() else {}

    def finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was recorded of the same selection where it is finished, None where nothing is finished. Raises DriftError where
        another selection is there, ConfigError where it is something else of ours."""
        commit = read_result(self.root)
        if commit is None:
            return None
        if commit.facts.get("kind") != KIND:
            raise ConfigError(
                f"{self.root} is not a selection (its {COMMIT} is that of something else)", "Give another --out."
            )
        self._refuse_drift(commit.facts["identity"], identity, "was made")
        return commit.facts

    def has_leftovers(self) -> bool:
        """Whether a finished selection was killed before its scratch was removed, or while the end of its attempt was written."""
        attempts = Layout(self.folder).attempts.glob("*")
        return self.output.exists() or any(durable.temporaries(attempt) for attempt in attempts)

    def discard_leftovers(self) -> None:
        """Remove what a kill left of a finished selection. The folder must be held."""
        durable.remove_tree(self.output)
        Store.open(self.folder).clean_work()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the folder against a second writer. A new selection that is refused before anything was computed leaves nothing;
        the record of an earlier attempt is never removed.

        Raises ConfigError for a folder of something else, LockedError.
        """
        self._refuse_occupied()
        durable.make_folder(self.folder)
        lock = RunLock(Layout(self.folder).lock)
        try:
            with durable.translating_errors(Layout(self.folder).lock):
                lock.__enter__()
        except LockedError as error:
            raise LockedError(
                f"another `selfplay select` is writing into {self.root}", "Wait for it, or give another --out."
            ) from error
        existed, useless = self._exists(), False
        try:
            yield
        except (ConfigError, DataError):
            useless = not existed and not self._has_computed()
            raise
        finally:
            lock.__exit__(None, None, None)
            if useless:
                durable.remove_tree(self.folder)
                if self._is_new:
                    durable.operations.rmdir(self.root)

    def begin(
        self,
        settings: SelectSettings,
        config: Config,
        inputs: Inputs,
        identity: Mapping[str, Any],
        needs: Needs,
        rows: int,
    ) -> tuple[Store, str, bool]:
        """The store of the record, the fingerprint of what is computed in it, and whether it existed. `rows`: how many rows
        can be used (fewer where a metric of the user's own reads a column that has no number everywhere).

        Raises DriftError where the folder is of another selection.
        """
        computed = {name: value for name, value in identity["settings"].items() if name not in RANKING}
        computed |= {"usable rows": rows, "computed": needs.names()}
        content = {name: value for name, value in identity["content"].items() if name != "metric"}
        self._computed_stages = needs.stages
        of_computing = {**identity, "settings": computed, "content": content}
        fingerprint = durable.sha256_bytes(durable.canonical_json(of_computing))
        if self._exists():
            store = Store.open(self.folder)
            self._refuse_drift(store.config_json(_IDENTITY, dict), of_computing, "was begun")
            if store.is_committed(1, "select"):
                self._refuse_drift(store.attempt_documents()[-1]["identity"], identity, "was begun")
            store.clean_work()
            self._discard_other_ranking(store, identity)
            return store, fingerprint, True
        files = {
            SELECT: settings.model_dump(mode="json"), _IDENTITY: of_computing, "resolved.json": config.model_dump(mode="json"),
            "pins.json": {**inputs.pins, "dataset": identity["content"]["dataset"]}, "revisions.json": inputs.revisions,
            "search_path.json": str(inputs.search_path), "overrides.json": [],
        }  # fmt: skip
        store = Store.create(self.folder, {name: durable.pretty_json(value) for name, value in files.items()})
        return store, fingerprint, False

    def _discard_other_ranking(self, store: Store, identity: Mapping[str, Any]) -> None:
        """Remove what a kill left of stage *select* unless the last attempt was at the same selection. (What is computed has
        one fingerprint whatever the metric and the cut, and so does not tell.)"""
        attempts = store.attempt_documents()
        if not attempts or durable.canonical_json(attempts[-1]["identity"]) != durable.canonical_json(identity):
            durable.remove_tree(store.layout.stage_work(1, "select"))

    def _exists(self) -> bool:
        return Layout(self.folder).identity.is_file()

    def _has_computed(self) -> bool:
        """Whether workers have computed anything that the same command would use again."""
        return self._exists() and any(
            any(folder.rglob("part-*.parquet"))
            for stage in self._computed_stages
            for folder in (Layout(self.folder).stage(1, stage), Layout(self.folder).stage_work(1, stage))
        )

    def _refuse_occupied(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise ConfigError(f"--out {self.root} is a file", "Give a folder that does not exist yet.")
        names = {path.name for path in self.root.iterdir()}
        if names <= {RECORD, f".trash-{RECORD}"} or COMMIT in names or self._exists():
            return
        raise ConfigError(
            f"{self.root} exists and is not empty: it holds {', '.join(sorted(names)[:3])}",
            "Give another --out, or delete its contents.",
        )

    def _refuse_drift(self, before: Mapping[str, Any], now: Mapping[str, Any], how: str) -> None:
        """Raise DriftError with a diff unless both identities are equal."""
        lines = [
            f"{name}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"
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
                f"{self.root} {how} with other settings:\n    " + "\n    ".join(lines),
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
