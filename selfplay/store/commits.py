"""A stage's commit: the manifest of its files, and what the stage was made from.

A stage is committed when its folder has its final name: the folder is renamed only after everything in it, this file last, is on
disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from selfplay.core.errors import CorruptionError
from selfplay.core.parse_record import STRICT
from selfplay.store.layout import COMMIT, StageName, resume_of, selection_of
from selfplay.store.manifest import (
    Count,
    Damage,
    Digest,
    FileEntry,
    check_files,
    read_manifest,
    write_manifest,
)
from selfplay.store.symlinks import forbid_symlinks
from selfplay.store.tombstone import read_tombstone


@dataclass(frozen=True, slots=True)
class Commit:
    """`.COMMIT.json`. `inputs` maps "ROUND/STAGE" to the digest of that stage's commit, so that lineage is a chain."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    round: Count
    stage: str
    fingerprint: str
    inputs: dict[StageName, Digest]
    files: list[FileEntry]
    attempt: Count
    created: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)


def write_commit(folder: Path, commit: Commit) -> None:
    """Write a commit into a stage's work folder."""
    write_manifest(folder / COMMIT, dataclasses.asdict(commit), commit.files)


def read_commit(folder: Path) -> tuple[Commit, str]:
    """The commit of a run's stage folder, ROOT/rounds/ROUND/STAGE, and its digest. Raises CorruptionError where it is missing or
    damaged, or a symbolic link on the way from ROOT to it."""
    path = folder / COMMIT
    forbid_symlinks(path, folder.parents[2])
    try:
        manifest = read_manifest(path)
        commit = manifest.as_record(Commit)
    except FileNotFoundError:
        raise CorruptionError(f"{folder} has no {COMMIT}", remedy(folder)) from None
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", remedy(folder)) from None
    return commit, manifest.digest


def misplaced(folder: Path, commit: Commit) -> CorruptionError | None:
    """The error of a stage folder (see `read_commit`) that holds the commit of another stage; None where it holds its own."""
    if (f"{commit.round:03d}", commit.stage) == (folder.parent.name, folder.name):
        return None
    return CorruptionError(
        f"{folder} holds the commit of round {commit.round} {commit.stage}",
        "Move the folder back to where it belongs, or restore the run from a backup.",
    )


def damage(folder: Path, commit: Commit, digest: str, *, rows: bool = False, digests: bool = False) -> Iterator[Damage]:
    """Every difference between a stage's folder and its commit, whose digest is `digest`. Files of a deleted policy may be
    missing. Raises CorruptionError for a tombstone that does not agree with the commit."""
    found = list(check_files(folder, commit.files, rows=rows, digests=digests, extra=True))
    # a tombstone is written before anything is deleted: look for it after a file was missed
    tombstone = read_tombstone(folder, commit.files, digest)
    deleted = set() if tombstone is None else {entry.path for entry in tombstone.files}
    for item in found:
        if item.path.relative_to(folder).as_posix() not in deleted:
            yield item


def check_stage(folder: Path, commit: Commit, digest: str, *, digests: bool = False) -> None:
    """Raise CorruptionError unless the committed files are present with their sizes, and there are no others (cheap: at every
    read). `digests`: their content is checked too (once in an attempt, before they are used)."""
    for item in damage(folder, commit, digest, digests=digests):
        extra = f"Remove it: {folder} is read as a whole."
        raise CorruptionError(str(item), extra if item.kind == "extra" else remedy(folder))


def remedy(folder: Path) -> str:
    """What to do about a damaged stage. A selection that is finished is made again only as a whole."""
    selected = selection_of(folder)
    if selected is None:
        what = f"{folder} and everything made from it (later stages of its round and all later rounds)"
    elif (selected / COMMIT).is_file():
        what = str(selected)
    else:
        what = f"{folder} and the later stages beside it"
    return f"Restore it from a backup, or remove {what} and {resume_of(folder)}: the stage is made again."
