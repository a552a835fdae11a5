"""Arguments that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")]
Round = Annotated[int, typer.Argument(metavar="ROUND", help="Number of the round; 0 is the starting policy.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Grace = Annotated[float, typer.Option(help="Seconds after SIGTERM until the run stops at once.", min=0.1)]
LogText = Annotated[
    bool, typer.Option("--log-text", help="Send example pairs to the trackers (tracking.to), not only numbers.")
]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a trace of the driver and the workers to this new file, for https://ui.perfetto.dev.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the code that the run names (functions, code of models) even if you did not start it on this machine.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Continue where a gate (gates: in the configuration) or the memory or disk estimate would stop the run; recorded.",
    ),
]


def require_run(run: Path) -> None:
    """Raise an error if the path is not a run, before slow imports."""
    from selfplay.inspect.reading import open_store

    open_store(run)
