"""Every path rule of a run directory in one place (see runs/README.md for the picture)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = 1

STAGES = ("prompts", "sample", "score", "pair", "logprobs", "select", "train", "evaluate")
FIRST_ROUND_STAGES = ("prompts", "evaluate")

COMMIT = ".COMMIT.json"
METRICS = ".metrics.json"
REMOVED = ".REMOVED.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of the run at `root` (absolute)."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "RUN.json"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def rounds(self) -> Path:
        return self.root / "rounds"

    @property
    def work(self) -> Path:
        return self.root / ".work"

    def attempt(self, number: int) -> Path:
        return self.attempts / f"{number:04d}"

    def stage(self, round_number: int, stage: str) -> Path:
        return self.rounds / f"{round_number:03d}" / stage

    def commit(self, round_number: int, stage: str) -> Path:
        return self.stage(round_number, stage) / COMMIT

    def stage_work(self, round_number: int, stage: str) -> Path:
        return self.work / f"{round_number:03d}-{stage}"

    def trainer_scratch(self, round_number: int) -> Path:
        return self.work / f"{round_number:03d}-trainer"


def part_name(index: int) -> str:
    """Name of a table's shard."""
    return f"part-{index:05d}.parquet"


def sidecar_name(index: int) -> str:
    """Name of the file that makes a shard in `.work/` count: hidden, so that `load_dataset(FOLDER)` reads only Parquet."""
    return f".part-{index:05d}.json"


def rounds_present(layout: Layout) -> list[int]:
    """Numbers of the rounds that have a folder, ascending."""
    if not layout.rounds.is_dir():
        return []
    return sorted(int(path.name) for path in layout.rounds.iterdir() if re.fullmatch(r"\d{3,}", path.name))


def attempts_present(layout: Layout) -> list[int]:
    """Numbers of the attempts, ascending."""
    if not layout.attempts.is_dir():
        return []
    return sorted(int(path.name) for path in layout.attempts.iterdir() if re.fullmatch(r"\d{4,}", path.name))
