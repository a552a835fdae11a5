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


def read_commits(layout: Layout) -> tuple[Commits, list[Problem]]:
    """Every stage folder's commit, and a problem for each that has none to read or is not at its place."""
    commits: Commits = {}
    problems: list[Problem] = []
    for number in rounds_present(layout):
        above = layout.rounds / f"{number:03d}"
        if (odd := _no_folder(above)) is not None:
            problems.append(odd)
            continue
        for folder in sorted(path for path in above.iterdir() if path.name in STAGE_NAMES):
            if (odd := _no_folder(folder)) is not None:
                problems.append(odd)
                continue
            try:
                commit, digest = read_commit(folder)
            except CorruptionError as error:
                kind = "misplaced" if (folder / COMMIT).is_symlink() else "damaged"
                problems.append(Problem(kind, str(folder / COMMIT), error.message, error.hint))
                continue
            if (commit.round, commit.stage) != (number, folder.name):
                message = f"{folder} holds the commit of round {commit.round} {commit.stage}"
                hint = "Move the folder back to where it belongs, or restore the run from a backup."
                problems.append(Problem("misplaced", str(folder / COMMIT), message, hint))
                continue
            commits[number, folder.name] = Committed(folder, commit, digest)
    return commits, problems


def _no_folder(path: Path) -> Problem | None:
    """The problem of what stands in the place of a round or stage and is not a folder of the run."""
    if path.is_symlink():
        return Problem("misplaced", str(path), f"{path} is a symbolic link", HINT)
    if not path.is_dir():
        return Problem(
            "misplaced", str(path), f"{path} is not a folder", "Remove it, or restore the folder from a backup."
        )
    return None


def check_chain(layout: Layout, commits: Commits, unreadable: set[tuple[int, str]]) -> Iterator[Problem]:
    """A problem for each input of a commit that is gone or is not the one it was made from. Inputs in `unreadable`
    have a problem of their own already."""
    for (number, stage), committed in commits.items():
        for name, digest in committed.commit.inputs.items():
            source = parse_stage_name(name)
            folder = layout.stage(*source)
            made = f"round {number} {stage} was made from it"
            if source in commits and commits[source].digest != digest:
                yield Problem(
                    "chain",
                    str(folder / COMMIT),
                    f"{folder} is another commit than the one that round {number} {stage} was made from",
                    remedy(committed.folder),
                )
            elif source not in commits and source not in unreadable:
                yield Problem("missing", str(folder), f"{folder} is missing, but {made}", remedy(folder))


def check_inherited(layout: Layout, commits: Commits) -> Iterator[Problem]:
    """A problem for each stage that the run was forked with and that is here as another commit. (One that is gone shows as a
    missing input of what was made from it, or is taken over again by a resume.)"""
    try:
        fork = Store.open(layout.root).forked_from
    except CorruptionError as error:
        yield Problem("damaged", str(layout.identity), error.message, error.hint)
        return
    for (number, stage), digest in (fork.keys() if fork else {}).items():
        found = commits.get((number, stage))
        if found is not None and found.digest != digest:
            yield Problem(
                "chain",
                str(found.folder / COMMIT),
                f"{found.folder} is another commit than the one that the run was forked with",
                remedy(found.folder),
            )


def _stands(layout: Layout, number: int, stage: str) -> bool:
    """Whether something is in a stage's place, be it a link or below one."""
    folder = layout.stage(number, stage)
    return folder.parent.is_symlink() or folder.is_symlink() or folder.exists()


def problems_of_commits(layout: Layout) -> tuple[Commits, list[Problem]]:
    """All commits that can be read, and everything wrong with commits and chain."""
    commits, problems = read_commits(layout)
    unreadable = {
        (number, stage)
        for number in rounds_present(layout)
        for stage in STAGE_NAMES
        if (number, stage) not in commits and _stands(layout, number, stage)
    }
    problems += check_inherited(layout, commits)
    return commits, problems + list(check_chain(layout, commits, unreadable))
