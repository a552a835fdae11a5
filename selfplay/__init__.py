"""selfplay: iterative self-play data generation with selection by alignment potential.

Importing this package imports nothing heavy: torch, vllm and ray are imported only by the processes that use them, and what
reads a run when `open_run` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from selfplay.inspect.opened import Run

__all__ = ["__version__", "open_run"]

__version__ = "0.1.0"


def open_run(path: str | Path) -> Run:
    """The run in a folder, to be looked at: its rounds, pairs, responses and the other tables of docs/data.md.

        run = selfplay.open_run("runs/quickstart")
        run.rounds.to_pandas()
        run.pairs.of_rounds(2).where("alignment_potential > 1 and not kept").select("pair_id", "rank").to_pandas()
        run.responses.to_datasets(streaming=True)

    Tables are lazy: files are opened when rows are asked for, and of them only the columns that are needed are read. What
    is committed is there, also of a run that is under way. Raises ConfigError where there is no run, CorruptionError
    where a file is not what was committed (sizes and rows; `selfplay verify --deep` checks every byte).
    """
    from selfplay.inspect.opened import open_run as opened

    return opened(path)
