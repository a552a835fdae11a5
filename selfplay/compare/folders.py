"""Where the runs of a comparison are."""

from __future__ import annotations

from pathlib import Path

from selfplay.compare.arms import Arm
from selfplay.compare.settings import Block


def block_folder(out: Path, block: Block) -> Path:
    """Where the runs of a block are."""
    return out / "runs" / block.name


def run_folder(out: Path, block: Block, arm: Arm, equal: str) -> Path:
    """Where an arm's run is: OUT/runs/BLOCK/ARM, with @epochs behind it for the runs of equal epochs."""
    return block_folder(out, block) / (arm.folder + ("@epochs" if equal == "epochs" else ""))


def has_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / "RUN.json").is_file()
