"""A stage's commit: the manifest of its files, and what the stage was made from.

A stage is committed when its folder has its final name: the folder is renamed only after everything in it, this file last, is on
disk.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import STAGE_NAMES
from selfplay.store.layout import COMMIT
from selfplay.store.manifest import (
    Damage,
    FileEntry,
    check_files,
    is_count,
    is_digest,
    read_manifest,
    write_manifest,
)
from selfplay.store.symlinks import forbid_symlinks
from selfplay.store.tombstone import read_tombstone


@dataclass(frozen=True, slots=True)
class Commit:
    """`.COMMIT.json`. `inputs` maps "ROUND/STAGE" to the digest of that stage's commit, so that lineage is a chain."""

    round: int
    stage: str
    fingerprint: str
    inputs: dict[str, str]
    files: list[FileEntry]
    attempt: int
    created: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """All but the files, as written."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "files"}


def write_commit(folder: Path, commit: Commit) -> None:
    """Write a commit into a stage's work folder."""
    write_manifest(folder / COMMIT, commit.facts(), commit.files)


def read_commit(folder: Path) -> tuple[Commit, str]:
    """The commit of a stage folder and its digest. Raises CorruptionError where it is missing or damaged."""
    path = folder / COMMIT
    for place in (folder, path):
        forbid_symlinks(place, place.parent)
    try:
        manifest = read_manifest(path)
        commit = Commit(files=manifest.files, **manifest.facts)
        _check_values(commit)
    except FileNotFoundError:
        raise CorruptionError(f"{folder} has no {COMMIT}", remedy(folder)) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", remedy(folder)) from None
    return commit, manifest.digest


def _check_values(commit: Commit) -> None:
    """Raise ValueError for values that no commit has: they may come from anywhere."""
    for name in commit.inputs:
        parse_stage_name(name)
    if not is_count(commit.round) or not is_count(commit.attempt):
        raise ValueError("a count in it is not a number")
    if not all(is_digest(digest) for digest in commit.inputs.values()):
        raise ValueError("a digest in it is invalid")


def parse_stage_name(name: str) -> tuple[int, str]:
    """(round, stage) of "ROUND/STAGE". Raises ValueError for any other text: it may come from a damaged file, and folders are
    named by it."""
    number, _, stage = name.partition("/")
    if stage not in STAGE_NAMES or not re.fullmatch(r"[0-9]{3,9}", number):
        raise ValueError(f"{name!r} names no stage")
    return int(number), stage


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


def check_shape(folder: Path, commit: Commit, digest: str) -> None:
    """Raise CorruptionError unless the committed files are present with their sizes, and there are no others (cheap: at every
    read)."""
    _raise_first(damage(folder, commit, digest), folder)


def check_digests(folder: Path, commit: Commit, digest: str) -> None:
    """Raise CorruptionError unless the content of the committed files is what was committed (once per attempt before they are
    used)."""
    _raise_first(damage(folder, commit, digest, digests=True), folder)


def _raise_first(found: Iterator[Damage], folder: Path) -> None:
    for item in found:
        extra = f"Remove it: {folder} is read as a whole."
        raise CorruptionError(str(item), extra if item.kind == "extra" else remedy(folder))


def remedy(folder: Path) -> str:
    """What to do about a damaged stage."""
    return (
        f"Restore it from a backup, or remove {folder} and everything made from it "
        "(later stages of its round and all later rounds) and resume: it will be made again."
    )
