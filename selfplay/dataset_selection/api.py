"""`selfplay.select`: the public function of dataset selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfplay.dataset_selection.pipeline import Outcome, run
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter


def select(
    dataset: str | Path | None = None, *, out: str | Path, reporter: Reporter | None = None, **settings: Any
) -> Outcome:
    """Rank an existing preference dataset and keep the best part, as `selfplay select` does.

    `dataset` is a file, a folder or a name on the hub; None with `sources`, which are several by their names. `out` is the folder
    of the result, which `datasets.load_dataset` and TRL read. `settings` are those of `selfplay select --config`: `metric`,
    `keep`, `policy`, `reward_model`, ... Returns the summary of the result.

    Raises ConfigError for settings that cannot be, DataError for rows that cannot be read.

    Example:
        selfplay.select("pairs.jsonl", out="selected", metric="explicit_margin", keep=0.5)
    """
    read = {} if dataset is None else {"dataset": str(dataset)}
    found, _ = load_settings({**read, "out": str(out), **settings}, [], None)
    return run(found, reporter or Reporter(), command="selfplay.select")
