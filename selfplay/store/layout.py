"""Every path rule of a run directory in one place (see runs/README.md for the picture)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from selfplay.core.stages import STAGE_NAMES

SCHEMA_VERSION = 1

COMMIT = ".COMMIT.json"
METRICS = ".metrics.json"
REMOVED = ".REMOVED.json"
# In the output folder of a selection from a dataset: its record, a run directory of one round.
RECORD = ".run"
# Schema version of the `summary.json` that `select` writes.
SUMMARY_SCHEMA = 1
# In `config/` of such a record: the settings of the selection.
SELECT = "select.json"
# In the folder of a comparison: what it compares; and the runs that its arms are forked from, OUT/runs/BLOCK/pool or pool-HASH.
COMPARISON = "compare.json"
POOL = "pool"


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


def is_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return Layout(folder).identity.is_file()


def selection_of(path: Path) -> Path | None:
    """The output folder of the selection in whose record a path is; None for a path in a run."""
    for above in path.parents:
        if is_run(above):
            return above.parent if (Layout(above).config / SELECT).is_file() else None
    return None


def resume_of(path: Path) -> str:
    """How to continue the run or selection that contains a path: words after "and"."""
    return "resume" if selection_of(path) is None else "give the same `selfplay select` command again"


def part_name(index: int) -> str:
    """Name of a table's shard."""
    return f"part-{index:05d}.parquet"


def part_index(name: str) -> int:
    """The index in a name of `part_name`. Raises ValueError for any other."""
    return int(name.removeprefix("part-").removesuffix(".parquet"))


def sidecar_name(index: int) -> str:
    """Name of the file that makes a shard in `.work/` count: hidden, so that `load_dataset(FOLDER)` reads only Parquet."""
    return f".part-{index:05d}.json"


def sidecar_index(path: Path) -> int | None:
    """The index in a name of `sidecar_name`; None for any other."""
    found = re.fullmatch(r"\.part-([0-9]{5,9})\.json", path.name)
    return int(found[1]) if found and path.name == sidecar_name(int(found[1])) else None


def sidecars_in(folder: Path) -> list[Path]:
    """The sidecars in a work folder and its folders, sorted; none where it is missing or a symbolic link."""
    if folder.is_symlink():
        return []
    return sorted(path for path in folder.rglob(".part-*.json") if sidecar_index(path) is not None)


def rounds_present(layout: Layout) -> list[int]:
    """Numbers of the rounds that have a folder, ascending."""
    return _numbers(layout.rounds, 3)


def attempts_present(layout: Layout) -> list[int]:
    """Numbers of the attempts, ascending."""
    return _numbers(layout.attempts, 4)


def _numbers(folder: Path, digits: int) -> list[int]:
    """Numbers of what is named by one, in the one way there is: `0002` is no other name of round `002`. A folder that is missing
    or a symbolic link has none."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if re.fullmatch(r"[0-9]{3,9}", path.name)]
    return sorted(int(name) for name in names if name == f"{int(name):0{digits}d}")


def stage_name(round_number: int, stage: str) -> str:
    """How a stage is named in a commit's inputs and in the lineage of a fork: "ROUND/STAGE"."""
    return f"{round_number:03d}/{stage}"


def parse_stage_name(name: str) -> tuple[int, str]:
    """(round, stage) of a name of `stage_name`. Raises ValueError for any other text: folders are named by it."""
    number, _, stage = name.partition("/")
    if stage not in STAGE_NAMES or not re.fullmatch(r"[0-9]{3,9}", number):
        raise ValueError(f"{name!r} names no stage")
    return int(number), stage


StageName = Annotated[str, AfterValidator(lambda name: name if parse_stage_name(name) else "")]
