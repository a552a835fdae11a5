"""`selfplay export RUN --to DIR|hf://ORG/NAME`: rounds as a dataset, policies as models, cards that say how they were made."""

from __future__ import annotations

from typing import Annotated

import typer

from selfplay.cli.arguments import Json, Run


def command(
    run: Run,
    to: Annotated[
        str, typer.Option("--to", metavar="DIR|hf://ORG/NAME", help="A folder, or a hub repository (hf://ORG/NAME).")
    ],
    rounds: Annotated[
        str | None, typer.Option("--rounds", metavar="1,2", help="Rounds to write; default: all.")
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies to write: last, all or none.")] = "last",
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="Write for another trainer: axolotl, llama-factory or jsonl (kept pairs, no policies)."
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the hub repositories public (default: private).")
    ] = False,
    json_output: Json = False,
) -> None:
    """Write rounds as a dataset and policies as models.

    Each round is a config with the splits kept and dropped: `load_dataset(DIR, "round_002")` reads it. Policies have model
    cards. Cards and settings name no user, host or path of this machine.
    """
    from selfplay.core.errors import ConfigError
    from selfplay.core.escape import escape_terminal
    from selfplay.core.terminal import note, table, write, write_json
    from selfplay.inspect.export.main import Wanted, export
    from selfplay.inspect.reading import open_store

    if policies not in ("last", "all", "none"):
        raise ConfigError(f"--policies {policies!r} is unknown", "Use last, all or none.")
    try:
        numbers = tuple(int(number) for number in rounds.split(",")) if rounds else ()
    except ValueError:
        raise ConfigError(f"--rounds {rounds!r} is not a list of numbers", "Write for example --rounds 1,2") from None
    done = export(open_store(run), Wanted(to, numbers, policies, format_, public))  # type: ignore[arg-type]
    if json_output:
        write_json(done.to_json())
        return
    names = sorted({name for counts in done.rounds.values() for name in counts}, reverse=True)
    rows = [[str(number), *(str(counts.get(name, 0)) for name in names)] for number, counts in done.rounds.items()]
    write(table(["round", *names], rows))
    for line in done.notes:
        note(escape_terminal(line))
    for number in done.policies:
        note(f"the policy after round {number} was written as well")
    if done.repositories:
        note("uploaded: " + ", ".join(done.repositories))
    elif format_ is None:
        newest = max(done.rounds)
        note(
            f'read it: datasets.load_dataset({escape_terminal(str(done.folder))!r}, "round_{newest:03d}", split="kept")'
        )
    else:
        note(f"written: {escape_terminal(done.folder)}")
