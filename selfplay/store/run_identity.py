"""`RUN.json`: the identity of a run. It is written last when a run is created, so a folder with one is a run."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from selfplay.core.errors import ConfigError, CorruptionError
from selfplay.core.parse_record import STRICT, parse_record
from selfplay.store import durable
from selfplay.store.fork import Fork
from selfplay.store.layout import Layout, attempts_present
from selfplay.store.manifest import Digest, check_version
from selfplay.store.new_folder import is_bare_skeleton
from selfplay.store.symlinks import forbid_symlinks

FileName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]  # of a file in a folder, without a path


@dataclass(frozen=True, slots=True)
class Identity:
    """`selfplay` is the version that created the run, `config` maps the files of `config/` to their sha256."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: str
    schema_version: int
    selfplay: str
    created: str
    forked_from: Fork | None
    config: dict[FileName, Digest]


def new_id() -> str:
    """A random id for a run."""
    return secrets.token_hex(8)


def read_identity(root: Path, layout: Layout) -> Identity:
    """The identity of the run at `root`, whose layout is `layout`. Raises ConfigError when there is none or another version wrote
    it, CorruptionError for one that is damaged or missing, or a symbolic link in its place."""
    if layout.identity.exists() and not layout.identity.is_file():
        raise CorruptionError(f"{layout.identity} is not a regular file", "Restore it from a backup.")
    if not layout.identity.is_file():
        if not layout.identity.is_symlink() and attempts_present(layout) and layout.rounds.is_dir():
            raise CorruptionError(
                f"{layout.identity} is missing, but {layout.root} holds attempts of a run",
                "Restore it from a backup.",
            )
        if root.is_dir() and any(root.iterdir()) and is_bare_skeleton(root):
            raise ConfigError(
                f"{root} is not a run yet: its creation was interrupted", "Start it again with `selfplay run`."
            )
        what = "is not a run" if root.is_dir() else "does not exist"
        raise ConfigError(f"{root} {what} (no RUN.json)", "Give the folder that `selfplay run` named.")
    for path in (layout.identity, layout.lock, layout.config, layout.attempts, layout.rounds, layout.work):
        forbid_symlinks(path, layout.root)
    try:
        # the checksum first: a flipped digit is not another version
        document = durable.parse_checked_json(durable.read_file(layout.identity))
        check_version(root, document.get("schema_version"), document.get("selfplay"))
        return parse_record(Identity, document)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{layout.identity} is damaged ({error})", "Restore it from a backup.") from None
