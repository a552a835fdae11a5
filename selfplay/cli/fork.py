"""`selfplay fork RUN --from-round N [key=value ...]`: share the rounds up to N and continue with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Force, Grace, Run, TrustCode, require_run
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal


def command(
    run: Run,
    from_round: Annotated[int, typer.Option("--from-round", metavar="N", help="The last round that is shared.", min=0)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as key=value, with dots.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory of the new run; default: RUN-from-N, beside RUN.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is shared and planned, and stop.")] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Only create the new run; `selfplay resume` starts it.")
    ] = False,
    json_output: Annotated[
        bool,
        typer.Option("--json", help="JSON on stdout: what is shared and planned (--dry-run, --no-run), or the rounds."),
    ] = False,
    force: Force = False,
    grace: Grace = 25.0,
    trust_code: TrustCode = False,
) -> None:
    """Continue from a committed round with other settings.

    The new run shares the committed rounds 0 to N of RUN, which does not change; you may delete either later. Pairs, selection,
    training and sampling of later rounds may change. The starting policy, the held-out evaluation, the reward that judged it,
    the prompts' order and the seed may not.
    """
    require_run(run)
    from selfplay import api
    from selfplay.cli.run import finish
    from selfplay.core.terminal import note, write_json
    from selfplay.execution.progress import Reporter
    from selfplay.store.layout import is_run
    from selfplay.store.new_folder import require_empty_dir

    target, given = api.fork_folder(run, from_round, run_dir), overrides or []
    if not dry_run and not no_run:
        api.fork(
            run, from_round=from_round, run_dir=target, overrides=given, force=force, grace=grace, trust_code=trust_code
        )
        finish(target, json_output)
        return
    if not dry_run:
        require_empty_dir(target)
    reporter = Reporter()
    forking = api.plan_fork(
        run, from_round=from_round, run_dir=target, overrides=given, force=force, trust_code=trust_code,
        reporter=reporter,
    )  # fmt: skip
    for line in forking.lines():
        reporter.say(line)
    if not dry_run:
        api.create_fork(forking, given, reporter)
        note(escape_terminal(f"created: {target}   (start it with {shell_command('resume', target)})"))
    elif is_run(target):
        note(f"note: {target} already contains a run; choose another --run-dir")
    if json_output:
        write_json(forking.document())
