"""`selfplay fork RUN --from-round N [key=value ...]`: share the rounds up to N and go on with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Run


def command(
    run: Run,
    from_round: Annotated[int, typer.Option("--from-round", metavar="N", help="The last round that is shared.", min=0)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as key=value, with dots.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the new run goes; RUN-from-N beside the other by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is shared and what will be done, and stop.")
    ] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Only make the new run; `selfplay resume` begins it.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="What is shared and planned (dry run, no run) or the rounds, as JSON.")
    ] = False,
    grace: Annotated[float, typer.Option(help="Seconds after SIGTERM until the run stops at once.", min=0.1)] = 25.0,
) -> None:
    """Go on from a committed round with other settings.

    The new run shares the committed rounds 0 to N of RUN, which stays as it is; either may be removed later. Pairs,
    selection, training and sampling of later rounds may change; the
    starting policy, the held-out evaluation, the reward that judged it, the prompts' order and the seed may not.
    """
    from selfplay.cli.run import finish
    from selfplay.config.load import absolute_places, apply_override, validate
    from selfplay.core.terminal import note, program, write_json
    from selfplay.execution.progress import Reporter
    from selfplay.run.driver import make, start
    from selfplay.run.fork import prepare_fork
    from selfplay.store.run import Store, require_empty_dir
    from selfplay.store.run_state import config_in_force

    source = Store.open(run)
    root = source.layout.root
    target = run_dir or root.with_name(f"{root.name}-from-{from_round}")
    if not dry_run:
        require_empty_dir(target)
    document = config_in_force(source)
    before = validate(document, f"{run}/config/resolved.json")
    for override in overrides or []:
        apply_override(document, override)
    search_path = Path(source.config_json("search_path.json", str))
    after = absolute_places(validate(document, "the command line"), search_path)
    forking = prepare_fork(source, from_round, before, after, search_path, target)
    reporter = Reporter()
    for line in forking.lines():
        reporter.say(line)
    if dry_run:
        if (target / "RUN.json").is_file():
            note(f"note: {target} already contains a run; choose another --run-dir")
    elif no_run:
        make(forking.prepared, forking.given(), forking.overrides(overrides or []), forking.lineage(), forking.files())
        note(f"created: {target}   (start it with {program()} resume {target})")
    else:
        reporter.say(f"run directory: {target}   (log: {target}/attempts/0001/log.txt)")
        start(
            forking.prepared, forking.given(), forking.overrides(overrides or []), reporter, grace,
            forked_from=forking.lineage(), files=forking.files(),
        )  # fmt: skip
        finish(target, json_output)
        return
    if json_output:
        write_json(forking.document())
