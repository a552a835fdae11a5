"""`selfplay quickstart`: create the small world, then run the loop in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Grace
from selfplay.core.commands import shell_command
from selfplay.core.terminal import note


def command(
    rounds: Annotated[int, typer.Option(help="Rounds to run.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the world and of the run.", min=0)] = 0,
    run_dir: Annotated[
        Path, typer.Option(help="Directory of the run; the world is created beside it, as NAME-world.")
    ] = Path("runs/quickstart"),
    world: Annotated[Path | None, typer.Option(help="Folder for the world.")] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Create the world and stop.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="The rounds as JSON on stdout.")] = False,
    grace: Grace = 25.0,
) -> None:
    """Run the whole loop here, with tiny models that it makes first."""
    from selfplay import api
    from selfplay.cli.run import finish
    from selfplay.execution.progress import Reporter
    from selfplay.quickstart.world import prepare as prepare_world
    from selfplay.store.layout import is_run
    from selfplay.store.new_folder import require_empty_dir

    reporter = Reporter()
    if not prepare_only and is_run(run_dir):
        _what_is_there(run_dir, json_output)
        return
    if not prepare_only:
        require_empty_dir(run_dir)
    world_dir = world or run_dir.with_name(run_dir.name + "-world")
    reporter.say(f"the small world of seed {seed}: prompts, a policy and a reward model, in {world_dir}")
    started = time.monotonic()
    progress = _Progress(reporter)
    made = prepare_world(world_dir, seed, progress=progress)
    seconds = time.monotonic() - started
    reporter.say(
        f"the world exists and is used again ({seconds:.0f} s)" if made.from_cache else f"made in {seconds:.0f} s"
    )
    if prepare_only:
        reporter.say(f"try your own settings: {shell_command('run', made.config, 'selection.keep=0.5')}")
        return
    api.start(made.config, run_dir=run_dir, overrides=[f"rounds={rounds}"], grace=grace, reporter=reporter)
    finish(run_dir, json_output)


class _Progress:
    """Says each part of the preparation once, then at most every ten seconds."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter
        self._stage = ""
        self._said = 0.0

    def __call__(self, report: dict[str, Any]) -> None:
        stage = str(report.get("stage", ""))
        if stage == self._stage and time.monotonic() - self._said < 10:
            return
        self._stage, self._said = stage, time.monotonic()
        numbers = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in report.items()
            if name not in ("stage", "elapsed") and isinstance(value, int | float)
        )
        self._reporter.say(f"  {report.get('elapsed', 0):>5} s  {stage}" + (f"  ({numbers})" if numbers else ""))


def _what_is_there(run_dir: Path, json_output: bool) -> None:
    """A second quickstart overwrites nothing: it reports what exists and how to continue."""
    from selfplay.cli.rounds import command as rounds
    from selfplay.inspect.documents.status import status_document

    state = status_document(run_dir)
    note(
        f"{run_dir} already holds a quickstart run: {state['state']}, "
        f"{state['rounds_done']} of {state['rounds_planned']} rounds."
    )
    rounds(run_dir, json_output=json_output)
    another = run_dir.with_name(f"{run_dir.name}-2")
    note(
        f"\nContinue it:        {shell_command('resume', run_dir)}            "
        f"(or rounds={state['rounds_planned'] + 2} for two more)\n"
        f"Inspect it:         {shell_command('show', run_dir, 1)}\n"
        f"Start another one:  {shell_command('quickstart', '--run-dir', another, '--seed', 1)}"
    )
