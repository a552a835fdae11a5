"""Commits and the chain between them: what can be checked without opening a table (`status`, `verify`).

Every commit names the commits it was made from by digest. A stage folder that was removed, replaced or moved shows
here, even when everything that is left is intact by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import STAGE_NAMES
from selfplay.store.commits import Commit, read_commit, remedy
from selfplay.store.layout import COMMIT, Layout, parse_stage_name, rounds_present
from selfplay.store.run import Store
from selfplay.store.symlinks import HINT


@dataclass(frozen=True, slots=True)
class Problem:
    """One damage of a run. `kind` is a stable word: missing, size, digest, extra, damaged, misplaced, chain, rows,
    shard."""

    kind: str
    file: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A stage folder whose commit can be read."""

    folder: Path
    commit: Commit
    digest: str


Commits = dict[tuple[int, str], Committed]


def problems_of_commits(store: Store) -> tuple[Commits, list[Problem]]:
    """Every stage folder's commit, and all that is wrong with the commits and the chain between them."""
    commits: Commits = {}
    problems: list[Problem] = []
    damaged: set[tuple[int, str]] = set()  # these have a problem of their own
    for number in rounds_present(store.layout):
        above = store.layout.rounds / f"{number:03d}"
        if (odd := _not_a_folder(above)) is not None:
            problems.append(odd)
            damaged |= {(number, stage) for stage in STAGE_NAMES}
            continue
        for folder in sorted(path for path in above.iterdir() if path.name in STAGE_NAMES):
            found = _not_a_folder(folder) or _read(folder, number)
            if isinstance(found, Committed):
                commits[number, folder.name] = found
            else:
                problems.append(found)
                damaged.add((number, folder.name))
    problems += _check_inherited(store, commits)
    problems += _check_chain(store.layout, commits, damaged)
    return commits, problems


def _read(folder: Path, number: int) -> Committed | Problem:
    path = folder / COMMIT
    try:
        commit, digest = read_commit(folder)
    except CorruptionError as error:
        return Problem("misplaced" if path.is_symlink() else "damaged", str(path), error.message, error.hint)
    if (commit.round, commit.stage) != (number, folder.name):
        message = f"{folder} holds the commit of round {commit.round} {commit.stage}"
        hint = "Move the folder back to its place, or restore the run from a backup."
        return Problem("misplaced", str(path), message, hint)
    return Committed(folder, commit, digest)


def _not_a_folder(path: Path) -> Problem | None:
    """The problem of what is in the place of a round or stage and is not a folder of the run."""
    if path.is_symlink():
        return Problem("misplaced", str(path), f"{path} is a symbolic link", HINT)
    if not path.is_dir():
        hint = "Remove it, or restore the folder from a backup."
        return Problem("misplaced", str(path), f"{path} is not a folder", hint)
    return None


def _check_chain(layout: Layout, commits: Commits, damaged: set[tuple[int, str]]) -> Iterator[Problem]:
    """A problem for each input of a commit that is missing or is not the one that the stage was made from."""
    for (number, stage), committed in commits.items():
        for name, digest in committed.commit.inputs.items():
            source = parse_stage_name(name)
            folder = layout.stage(*source)
            if source in commits and commits[source].digest != digest:
                message = f"{folder} is another commit than the one that round {number} {stage} was made from"
                yield Problem("chain", str(folder / COMMIT), message, remedy(committed.folder))
            elif source not in commits and source not in damaged:
                message = f"{folder} is missing, but round {number} {stage} was made from it"
                yield Problem("missing", str(folder), message, remedy(folder))


def _check_inherited(store: Store, commits: Commits) -> Iterator[Problem]:
    """A problem for each stage that the run was forked with and that is here as another commit. (A missing one is reported as an
    input of what was made from it, or is taken over again by a resume.)"""
    for key, digest in (store.forked_from.keys() if store.forked_from else {}).items():
        found = commits.get(key)
        if found is not None and found.digest != digest:
            message = f"{found.folder} is another commit than the one that the run was forked with"
            yield Problem("chain", str(found.folder / COMMIT), message, remedy(found.folder))
