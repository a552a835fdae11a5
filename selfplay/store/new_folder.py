"""Checks the folder of a new run: it must be missing or empty, and not inside another run."""

from __future__ import annotations

from pathlib import Path

from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.store import durable
from selfplay.store.layout import is_run

SKELETON = {"run.lock", "config", "attempts", "rounds", ".work"}


def require_empty_dir(root: Path) -> None:
    """Raise ConfigError unless `root` is missing or empty, and not inside a run: a run never overwrites anything."""
    for above in root.absolute().resolve().parents:
        if is_run(above):
            raise ConfigError(
                f"{root} is inside the run {above}", "Choose another --run-dir: a run's folder holds nothing else."
            )
    if not root.exists() or is_bare_skeleton(root):
        return
    if is_run(root):
        raise ConfigError(
            f"{root} already contains a run",
            f"Continue it with `{shell_command('resume', root)}`, inspect it with `{shell_command('rounds', root)}`, "
            "or choose another --run-dir.",
        )
    raise ConfigError(f"{root} exists and is not empty", "Choose another --run-dir, or remove it.")


def is_bare_skeleton(root: Path) -> bool:
    """Whether the folder is empty, or holds only what a killed creation leaves before RUN.json."""
    halves = {path.name for path in durable.temporaries(root, "RUN.json")} if root.is_dir() else set()
    if not root.is_dir() or not {path.name for path in root.iterdir()} <= SKELETON | halves:
        return False
    return not any((root / name).is_dir() and any((root / name).iterdir()) for name in ("attempts", "rounds", ".work"))
