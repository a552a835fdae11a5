"""`selfplay compare CONFIG ...`: several ways to choose and train, from one start and one sampled pool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Force, Grace, Json, TrustCode


def command(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG ... [key=value ...]", help="Config files, and settings for all arms."),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="One arm for each metric: random,full,explicit_margin,...")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", help='An arm: "NAME: key=value key=value" (pairs, selection and training settings).'),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0..N-1 of each config.", min=1)] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of each run; default: those of the config.", min=1)] = None,
    equal: Annotated[
        str | None, typer.Option(help="What is equal in the training of all arms: steps (default), epochs, or both.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The arm that the others are compared with; default: random, or else the first.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column of the prompts: count the kept pairs of each of its groups.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("runs/compare"),
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed arms again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the planned runs, and stop.")
    ] = False,
    json_output: Json = False,
    force: Force = False,
    trust_code: TrustCode = False,
    grace: Grace = 25.0,
) -> None:
    """Compare arms that share start, evaluation and sampled pool. Repeat it to continue, or to add arms, seeds, configs."""
    from selfplay.compare.arms import EQUAL, parse_arms
    from selfplay.compare.main import compare
    from selfplay.compare.settings import Wanted
    from selfplay.core.errors import ConfigError

    if equal not in (None, "both", *EQUAL):
        raise ConfigError(f"--equal {equal!r} is not known", "Use steps, epochs or both.")
    words = configs or []
    overrides = [word for word in words if "=" in word and not Path(word).is_file()]
    wanted = Wanted(
        configs=tuple(Path(word) for word in words if word not in overrides),
        overrides=tuple(overrides),
        arms=tuple(parse_arms(metrics or [], arm or [])),
        num_seeds=seeds,
        rounds=rounds,
        equal=EQUAL if equal == "both" else (equal,) if equal else (),
        control=control,
        by=by,
    )
    document = compare(
        wanted, out, retry_failed=retry_failed, dry_run=dry_run, force=force, trust_code=trust_code, grace=grace
    )
    _show(document, out, json_output=json_output, dry_run=dry_run)


def _show(document: dict[str, Any], out: Path, *, json_output: bool, dry_run: bool) -> None:
    from selfplay.compare.report import tables
    from selfplay.core.escape import escape_terminal
    from selfplay.core.terminal import note, table, write, write_json

    if json_output:
        write_json(document)
        return
    if dry_run:
        return
    for shown in tables(document):
        write(shown.title)
        write(
            table(
                [escape_terminal(cell) for cell in shown.header],
                [[escape_terminal(cell) for cell in row] for row in shown.rows],
            )
        )
        for line in shown.notes:
            write(f"  {line}")
        write("")
    note(
        f"\nreport: {out / 'report.md'}   numbers: {out / 'results.json'}, {out / 'results.csv'}   runs: {out / 'runs'}"
    )
