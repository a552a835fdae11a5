"""What `gc` took away leaves a mark: `.REMOVED.json` in the stage's folder, so that an absence is told from a loss.

Only the model folders of a *train* stage are ever taken; its commit, which lists their files with digests, stays. The mark must
agree with that commit in every number, or it is no mark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from selfplay.core.errors import CorruptionError
from selfplay.store.durable import canonical_json, parse_checked_json, read_file, sha256_bytes
from selfplay.store.layout import REMOVED

if TYPE_CHECKING:
    from selfplay.store.manifest import Commit, FileEntry

STAGE = "train"
FOLDERS = ("policy", "engine")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """`.REMOVED.json`. `commit` is the sha256 of the stage's `.COMMIT.json`, `policy_digest` that of the policy (as in the
    stage's metrics), `folders` what was taken, with the number and bytes of its files; `removed` when (UTC), `why` in words."""

    round: int
    stage: str
    commit: str
    policy_digest: str
    folders: list[str]
    num_files: int
    num_bytes: int
    removed: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """As written."""
        return dataclasses.asdict(self)

    def contains(self, path: str) -> bool:
        """Whether a committed file (relative to the stage's folder) is among what was taken."""
        return path.partition("/")[0] in self.folders


def tombstone_for(commit: Commit, digest: str, removed: str, why: str) -> Tombstone:
    """The mark that says that a commit's model folders were taken away."""
    taken = [entry for entry in commit.files if entry.path.partition("/")[0] in FOLDERS]
    folders = sorted({entry.path.partition("/")[0] for entry in taken})
    num_bytes = sum(entry.num_bytes for entry in taken)
    return Tombstone(
        commit.round, commit.stage, digest, policy_digest(taken), folders, len(taken), num_bytes, removed, why
    )


def policy_digest(entries: Sequence[FileEntry]) -> str:
    """Identity of a policy's files (sha256 over names and contents), from their entries in the commit."""
    files = sorted(
        (PurePosixPath(entry.path).relative_to("policy"), entry.sha256)
        for entry in entries
        if entry.path.startswith("policy/")
    )
    return sha256_bytes(canonical_json([[path.as_posix(), sha256] for path, sha256 in files]))


def read_tombstone(folder: Path, commit: Commit, digest: str) -> Tombstone | None:
    """The mark in a stage's folder; None where nothing was taken. Raises CorruptionError for one that does not agree with the
    stage's commit."""
    path = folder / REMOVED
    if not path.is_symlink() and not path.exists():
        return None
    hint = f"No gc wrote this. Restore {folder} from a backup, or remove {path} if the policy is there."
    try:
        if path.is_symlink():
            raise ValueError("it is a symbolic link")
        # a mark of an earlier version has no seal
        mark = Tombstone(**parse_checked_json(read_file(path), strict=False))
        expected = tombstone_for(commit, digest, mark.removed, mark.why)
    except (OSError, ValueError, TypeError) as error:
        raise CorruptionError(f"{path} is damaged ({error})", hint) from None
    wrong = [
        field.name
        for field in dataclasses.fields(Tombstone)
        if getattr(mark, field.name) != getattr(expected, field.name)
        or type(getattr(mark, field.name)) is not type(getattr(expected, field.name))
    ]
    if commit.stage != STAGE or not expected.folders:
        raise CorruptionError(f"{path} is no mark of a removal: gc takes policies alone", hint)
    if wrong or not isinstance(mark.why, str) or not isinstance(mark.removed, str):
        raise CorruptionError(f"{path} does not agree with the commit beside it in {', '.join(wrong)}", hint)
    return mark
