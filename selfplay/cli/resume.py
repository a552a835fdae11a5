"""`selfplay resume RUN [key=value ...]`: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Force, Grace, LogText, Trace, TrustCode, require_run


def command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="rounds=N, or resource settings as key=value.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The rounds as JSON on stdout.")] = False,
    force: Force = False,
    grace: Grace = 25.0,
    log_text: LogText = False,
    trace: Trace = None,
    trust_code: TrustCode = False,
) -> None:
    """Continue a run: print what is reused, then do the rest."""
    require_run(run_dir)
    from selfplay import api
    from selfplay.cli.run import finish

    overrides = [*(overrides or []), *(["tracking.log_text=true"] if log_text else [])]
    api.resume(run_dir, overrides=overrides, force=force, grace=grace, trust_code=trust_code, trace=trace)
    finish(run_dir, json_output)
