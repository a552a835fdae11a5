"""`selfplay resume RUN [key=value ...]`: go on where a run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Force


def command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="rounds=N, or resource settings as key=value.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The rounds as JSON on stdout.")] = False,
    force: Force = False,
    grace: Annotated[float, typer.Option(help="Seconds after SIGTERM until the run stops at once.", min=0.1)] = 25.0,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Send example pairs to the trackers (tracking.to), not only numbers.")
    ] = False,
) -> None:
    """Continue a run: print what is adopted, then do the rest."""
    from selfplay.cli.run import finish
    from selfplay.config.load import absolute_places, apply_override, validate
    from selfplay.core.errors import DataError, ModelError
    from selfplay.execution.progress import Reporter
    from selfplay.run.driver import go_on, prepare
    from selfplay.store.run import Store
    from selfplay.store.run_state import config_in_force

    store = Store.open(run_dir)
    store.forbid_symlinks()
    document = config_in_force(store)
    before = validate(document, f"{run_dir}/config/resolved.json")
    for override in [*(overrides or []), *(["tracking.log_text=true"] if log_text else [])]:
        apply_override(document, override)
    search_path = Path(store.config_json("search_path.json", str))
    after = absolute_places(validate(document, "the command line"), search_path)
    reporter = Reporter()
    try:
        prepared = prepare(after, search_path, store.layout.root, store, force=force)
    except (ModelError, DataError) as error:
        place = "prompts.source" if isinstance(error, DataError) else "policy.model"
        error.hint += f" If it has moved: selfplay resume {run_dir} {place}=NEW-PLACE (its content is compared)."
        raise
    go_on(store, prepared, before, store.config_json("pins.json", dict), reporter, grace, force=force)
    finish(run_dir, json_output)
