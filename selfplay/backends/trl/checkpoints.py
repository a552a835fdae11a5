"""Sealed trainer checkpoints (stage *train*): a round that was killed continues from the newest intact one.

A checkpoint is a folder `checkpoint-STEP` as transformers writes it. Its seal, `.SEAL.json`, is written last: a manifest of
all files, with the step and the fingerprint of the job. Only a folder that is exactly what its seal says is ever opened:
transformers itself accepts a missing optimizer file or a flipped bit without a message, and some of the files are pickles.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.protocols import TrainJob
from selfplay.store import durable
from selfplay.store.manifest import check_files, hash_files, read_manifest, write_manifest

SEAL = ".SEAL.json"
PREFIX = "checkpoint-"
# What a resume needs beside the weights; a checkpoint without one of them must never be sealed.
REQUIRED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
# The settings that decide the weights. Left out: folders, canaries, and resources, which a resume may change.
_IDENTITY = (
    "seed", "loss", "beta", "gamma_beta_ratio", "learning_rate", "epochs", "max_steps", "batch_size", "max_length",
    "warmup_ratio", "schedule", "precision", "reference_is_policy", "lora", "trl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The newest usable checkpoint (`folder` is None and `step` 0 where there is none) and, newest first, why
    each newer or older folder was rejected."""

    folder: Path | None
    step: int
    rejected: list[tuple[Path, str]] = field(default_factory=list)


def fingerprint(job: TrainJob) -> str:
    """Sha256 (hex) of all that decides the weights a job ends with: its pairs with their log-probs (which
    stand for the starting policy too) and its settings."""
    settings: dict[str, Any] = {name: getattr(job, name) for name in _IDENTITY}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for pair in job.pairs:
        row = [getattr(pair, name) for name in pair.__slots__]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def seal(folder: Path, step: int, job_fingerprint: str) -> None:
    """Seal a complete checkpoint: make every file durable, then write the seal (temp, fsync, rename, fsync of
    the folder).

    Raises ValueError when a file that a resume needs is missing: then the trainer saved something else than
    expected.
    """
    absent = [name for name in REQUIRED if not (folder / name).is_file()]
    if absent:
        raise ValueError(f"{folder} cannot be sealed: it lacks {', '.join(absent)}")
    durable.set_modes(folder, like=folder / "trainer_state.json")
    durable.sync_tree(folder)
    entries = [entry for entry in hash_files(folder) if entry.path != SEAL]
    write_manifest(folder / SEAL, {"step": step, "fingerprint": job_fingerprint}, entries)
    durable.fsync_folder(folder.parent)


def find(checkpoint_dir: Path, job_fingerprint: str) -> Found:
    """The newest checkpoint whose seal verifies and whose fingerprint is the job's. Older ones behind it are
    not looked at."""
    rejected: list[tuple[Path, str]] = []
    for step, folder in _by_step(checkpoint_dir):
        try:
            reason = _fault(folder, step, job_fingerprint)
        except OSError as error:  # a bad sector is damage too
            reason = f"it cannot be read ({error.strerror})"
        if not reason:
            return Found(folder, step, rejected)
        rejected.append((folder, reason))
    return Found(None, 0, rejected)


def remove_all_but_newest(checkpoint_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (by step)."""
    for _, folder in _by_step(checkpoint_dir)[keep:]:
        shutil.rmtree(folder)


def _by_step(checkpoint_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint folder, newest step first."""
    if not checkpoint_dir.is_dir():
        return []
    numbered = [
        (int(folder.name.removeprefix(PREFIX)), folder)
        for folder in checkpoint_dir.iterdir()
        if folder.name.startswith(PREFIX) and folder.name.removeprefix(PREFIX).isdecimal()
    ]
    return sorted(numbered, reverse=True)


def _fault(folder: Path, step: int, job_fingerprint: str) -> str:
    """Why a checkpoint must not be used; empty when it is complete and the job's."""
    if folder.is_symlink() or not folder.is_dir():
        return "it is not a folder"
    path = folder / SEAL
    if path.is_symlink():
        return f"{SEAL} is a symbolic link"
    if not path.is_file():
        return "it is not sealed: the trainer was stopped while it wrote it" if any(folder.iterdir()) else "it is empty"
    try:
        manifest = read_manifest(path)
        sealed_step, sealed_fingerprint = manifest.facts["step"], manifest.facts["fingerprint"]
    except (ValueError, KeyError, ConfigError) as error:
        return f"its seal cannot be read ({error})"
    if sealed_step != step:
        return f"its seal is that of step {sealed_step}"
    # sizes first: they are free, and a truncated file need not be read
    for digests in (False, True):
        for item in check_files(folder, manifest.files, digests=digests, extra=True, hidden={SEAL}):
            return f"{item.path.relative_to(folder).as_posix()} {item.message}"
    return "" if sealed_fingerprint == job_fingerprint else "it belongs to a job with other pairs or settings"
