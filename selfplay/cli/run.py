"""`selfplay run CONFIG [key=value ...]`: start a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Force, Grace, LogText, Trace
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal


def command(
    config: Annotated[Path, typer.Argument(help="YAML file of the run; see configs/ and `selfplay config schema`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as key=value, with dots.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory of the run; default: runs/NAME-OF-THE-CONFIG.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and stop.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="JSON on stdout: the plan (--dry-run) or the rounds.")
    ] = False,
    force: Force = False,
    grace: Grace = 25.0,
    log_text: LogText = False,
    trace: Trace = None,
) -> None:
    """Start a multi-round run."""
    from selfplay import api
    from selfplay.core.terminal import note, write_json
    from selfplay.execution.progress import Reporter
    from selfplay.store.layout import is_run

    overrides = [*(overrides or []), *(["tracking.log_text=true"] if log_text else [])]
    target = api.run_folder(config, run_dir)
    reporter = Reporter()
    if dry_run:
        if is_run(target):
            note(f"note: {target} already contains a run; choose another --run-dir")
        prepared, _ = api.preflight(config, run_dir=target, overrides=overrides, force=force, reporter=reporter)
        for line in prepared.plan.lines():
            reporter.say(line)
        if json_output:
            write_json(prepared.plan.document())
        return
    api.start(config, run_dir=target, overrides=overrides, force=force, grace=grace, reporter=reporter, trace=trace)
    finish(target, json_output)


def finish(run_dir: Path, json_output: bool) -> None:
    """The table of rounds at the end of a run, and where to look next."""
    from selfplay.cli.rounds import command as rounds
    from selfplay.core.errors import OutputError
    from selfplay.core.terminal import note

    try:
        rounds(run_dir, json_output=json_output)
        sys.stdout.flush()
    except (OSError, OutputError) as error:
        # a terminal that is gone, as a pipe without a reader: the run is complete, whoever hears of it
        raise BrokenPipeError from error
    if not json_output:
        root = Path(os.path.relpath(run_dir)) if run_dir.is_relative_to(Path.cwd()) else run_dir
        following = (("show", root, 1), ("pairs", root, 1, "--content"), ("resume", root, "rounds=N"))
        note("\nnext: " + "   |   ".join(escape_terminal(shell_command(*words)) for words in following))
