"""The record of a deleted policy: `.REMOVED.json` in the stage's folder, which distinguishes a deletion from a loss.

It is a manifest of the deleted files. Only the model folders of a *train* stage are ever deleted; the commit, which lists their
files too, stays, and the two lists must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from selfplay.core.errors import CorruptionError
from selfplay.core.parse_record import STRICT
from selfplay.store.layout import REMOVED
from selfplay.store.manifest import FileEntry, read_manifest

STAGE = "train"
FOLDERS = ("policy", "engine")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """`commit` is the sha256 of the stage's `.COMMIT.json`, `files` what was deleted; `removed` when (UTC), `why` a phrase."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    commit: str
    files: list[FileEntry]
    removed: str
    why: str

    @property
    def folders(self) -> list[str]:
        """The deleted folders."""
        return sorted({entry.path.partition("/")[0] for entry in self.files})


def policy_files(files: Sequence[FileEntry]) -> list[FileEntry]:
    """Those of a stage's files that a deletion of its policy removes."""
    return [entry for entry in files if entry.path.partition("/")[0] in FOLDERS]


def read_tombstone(folder: Path, files: Sequence[FileEntry], digest: str) -> Tombstone | None:
    """The tombstone in a stage's folder; None where nothing was deleted. `files` and `digest` are those of the stage's commit.
    Raises CorruptionError for a tombstone that does not agree with them."""
    path = folder / REMOVED
    if not path.is_symlink() and not path.exists():
        return None
    hint = f"gc did not write this. Restore {folder} from a backup, or remove {path} if the policy exists."
    if path.is_symlink():
        raise CorruptionError(f"{path} is a symbolic link", hint)
    try:
        tombstone = read_manifest(path).as_record(Tombstone)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", hint) from None
    if tombstone.files != policy_files(files) or not tombstone.files or tombstone.commit != digest:
        raise CorruptionError(f"{path} does not agree with the commit beside it", hint)
    return tombstone
