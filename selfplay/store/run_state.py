"""The state of a run and which settings are in force, read from its commits and attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import stages_of
from selfplay.store.commits import check_stage, read_commit
from selfplay.store.layout import SELECT
from selfplay.store.run import Store
from selfplay.store.run_folders import is_pool

INHERITED = "inherited.json"


def recorded_folder(store: Store) -> Path | None:
    """Where the run was at its newest attempt: together with where it is now, this tells how a project moved. None where no
    attempt recorded it."""
    return next((Path(folder) for folder in _of_newest(store, "run_dir")), None)


def search_path_in_force(store: Store) -> Path:
    """The folder of the run's configuration at its newest attempt; that of the start where no attempt has begun."""
    found = next(_of_newest(store, "search_path"), None)
    return Path(found if found is not None else store.config_json("search_path.json", str))


def _of_newest(store: Store, key: str) -> Iterator[str]:
    for document in reversed(store.attempt_documents()):
        if isinstance(document.get(key), str):
            yield document[key]


def config_in_force(store: Store) -> dict[str, Any]:
    """The configuration of the newest attempt; that of the start where no attempt has begun."""
    found = store.attempt_documents()
    if found:
        settings = found[-1].get("config")
        if not isinstance(settings, dict) or not isinstance(settings.get("rounds"), int):
            path = store.layout.attempt(found[-1]["attempt"]) / "attempt.json"
            raise CorruptionError(
                f"{path} holds no settings", "Restore it from a backup: they are the current settings."
            )
        return settings
    return dict(store.config_json("resolved.json", dict))


def settings_by_round(store: Store) -> list[dict[str, Any]]:
    """For a fork, the settings that its shared rounds were made with: {"last": ROUND, "config": {...}} for the rounds up to each,
    ascending. Empty for any other run."""
    if not (store.layout.config / INHERITED).is_file():
        return []
    found: list[dict[str, Any]] = store.config_json(INHERITED, list)
    return found


def config_of_round(store: Store, round_number: int) -> dict[str, Any]:
    """The configuration that a round was made with: that of the other run for a round that a fork shares."""
    for item in settings_by_round(store):
        if round_number <= item["last"]:
            return dict(item["config"])
    return config_in_force(store)


def run_state(
    store: Store, *, damaged: bool, running: bool, following: tuple[int, str] | None, attempts: list[dict[str, Any]]
) -> str:
    """The state of a run, the only place that derives it.

    corrupt (`damaged`: a commit is not what it says), running (a driver is at work), complete (`following`: nothing comes next),
    failed, pool (a comparison's, which has what its arms are forked from and is not continued by itself), not begun (a fork that
    only has what it shares), or interrupted (stopped, or killed: no word of its end). `attempts` are the documents of the run's
    attempts, oldest first.
    """
    if damaged:
        return "corrupt"
    if running:
        return "running"
    if following is None:
        return "complete"
    end = attempts[-1]["end"] if attempts else None
    if end is not None and end["outcome"] == "failed":
        return "failed"
    if is_pool(store.layout.root):
        return "pool"
    return "not begun" if not attempts and store.forked_from is not None else "interrupted"


def check_committed_files(store: Store) -> None:
    """Raise CorruptionError unless the files of every committed stage are there with their sizes."""
    for number in store.rounds():
        for stage in store.committed(number):
            commit, digest = read_commit(folder := store.layout.stage(number, stage))
            check_stage(folder, commit, digest)


def is_selection(store: Store) -> bool:
    """Whether the store is the record of a selection from a dataset, not a run."""
    return SELECT in store.config_digests


def stages_in(store: Store, round_number: int) -> tuple[str, ...]:
    """The stages of a round, in order. A selection has no training and no evaluation, and round 0 has nothing. One from a table
    of numbers has only *select*, which comes last: where it is committed, what is not is not missing."""
    if not is_selection(store):
        return stages_of(round_number)
    names = tuple(name for name in stages_of(round_number) if name not in ("train", "evaluate")) if round_number else ()
    if round_number and store.is_committed(round_number, "select"):
        return tuple(name for name in names if store.is_committed(round_number, name))
    return names


def next_stage(store: Store, rounds: int) -> tuple[int, str] | None:
    """The first stage of the plan that is not committed; None when all are."""
    for number in range(rounds + 1):
        for stage in stages_in(store, number):
            if not store.is_committed(number, stage):
                return number, stage
    return None
