"""`selfplay gc RUN --keep-checkpoints K`: make room by taking away policies that no later stage needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.escape import safe_text
from selfplay.core.format import number
from selfplay.core.terminal import table, write, write_json


def command(
    run: Run,
    keep_checkpoints: Annotated[
        int,
        typer.Option(
            "--keep-checkpoints", metavar="K", help="Policies that stay beside the best: the newest K.", min=2
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave everything.")] = False,
    json_output: Json = False,
) -> None:
    """Take away policies of earlier rounds; datasets always stay.

    The last two policies and the best by the held-out judge stay too. What is taken leaves a mark (`.REMOVED.json`) that
    `verify` knows; a round without its policy can be read, exported and gone on from later rounds, but not forked from.
    """
    from selfplay.store.lock import RunLock
    from selfplay.store.retention import gc_document
    from selfplay.store.run import Store

    store = Store.open(run)
    if dry_run:
        document = gc_document(store, keep_checkpoints, dry_run=True)
    else:
        with RunLock(store.layout.lock, "gc"):
            document = gc_document(store, keep_checkpoints, dry_run=False)
    if json_output:
        write_json(document)
    else:
        write(_text(document))


def _text(document: dict[str, Any]) -> str:
    done = "to be removed" if document["dry_run"] else "removed"
    words = {"keep": "stays", "remove": done, "gone": "gone"}
    rows = [
        [str(row["round"]), f"{row['num_bytes'] / 1e6:.1f} MB", words[row["action"]], safe_text(row["why"])]
        for row in document["policies"]
    ]
    if not rows:
        return "no policy was trained yet"
    what = "would free" if document["dry_run"] else "freed"
    return "\n".join(
        [
            table(["round", "policy", "", "why"], rows, left=(0, 2, 3)),
            "",
            f"{what} {document['removed_bytes'] / 1e6:.1f} MB, {number(document['kept_bytes'] / 1e6, 1)} MB of policies stay",
        ]
    )
