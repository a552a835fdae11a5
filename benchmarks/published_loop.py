"""A round with the structure of the published loops: a new process and a cold engine for each stage, and JSON files between them.

Each stage computes with the plain version of `plain_loops`, in the fastest batches, so that the structure alone is compared.
`python -m benchmarks.published_loop STAGE FOLDER` runs one stage.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import plain_loops
from benchmarks.plain_loops import RoundWork, Sampling, Took, paired_rows
from benchmarks.training import plain
from selfplay.core.protocols import TrainJob, TrainLimits, TrainPair

STAGES = ("sample", "score", "logprobs", "train")


def time_published(work: RoundWork, reward_model: str, sizes: dict[str, int], max_model_len: int, folder: Path) -> Took:
    """Seconds of all stages, one process after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"reward_model": reward_model, "sizes": sizes, "max_model_len": max_model_len}
    (folder / "settings.json").write_text(json.dumps(settings))
    # what a script is given; the responses and numbers of the stages before it are read from their JSON files
    (folder / "given.json").write_text(json.dumps(dataclasses.asdict(work)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def run() -> None:
        for stage in STAGES:
            command = [sys.executable, "-m", "benchmarks.published_loop", stage, str(folder)]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    before = os.times()
    wall = plain_loops.took(run).wall
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, processor)


def read_work(folder: Path) -> RoundWork:
    """The work that a stage is given."""
    given: dict[str, Any] = json.loads((folder / "given.json").read_text())
    pairs = [TrainPair(**pair) for pair in given["job"].pop("pairs")]
    limits = TrainLimits(**given["job"].pop("limits"))
    given["job"] = TrainJob(pairs=pairs, limits=limits, **given["job"])
    given["sampling"] = Sampling(**given["sampling"])
    return RoundWork(**given)


def main() -> None:
    """Run one stage."""
    stage, folder = sys.argv[1], Path(sys.argv[2])
    work, settings = read_work(folder), json.loads((folder / "settings.json").read_text())
    found: Any
    if stage == "sample":
        engine = plain_loops.load_engine(work.policy, settings["max_model_len"])
        found = plain_loops.generate(engine, work, seeded=True)
    else:
        import torch

        torch.set_num_threads(1)
        # read as a script would read it; what follows is done with the responses of the round, so that the work is the same
        for before in STAGES[: STAGES.index(stage)]:
            json.loads((folder / f"{before}.json").read_text())
        size = settings["sizes"][stage]
        if stage == "score":
            found = plain_loops.rewards(*plain_loops.load_reward_model(settings["reward_model"]), work, size)
        elif stage == "logprobs":
            found = plain_loops.logps(plain_loops.load_policy(work.policy), paired_rows(work), size)
        else:
            plain(work.job, size)
            found = {"policy": work.job.output_dir}
    (folder / f"{stage}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
