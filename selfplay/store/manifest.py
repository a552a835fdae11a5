"""The records of a commit: which files belong to it, with size, sha256 and rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from selfplay.store.layout import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One committed file: path relative to the stage's folder, size in bytes, hex sha256, rows (null when it is no table)."""

    path: str
    num_bytes: int
    sha256: str
    rows: int | None = None


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
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """As written."""
        return dataclasses.asdict(self)
