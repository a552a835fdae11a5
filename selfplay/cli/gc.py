"""`selfplay gc RUN --keep-policies K`: free disk space by deleting policies that no later stage needs."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import table, write_document


def _renamed(value: int | None) -> None:
    if value is not None:
        raise typer.BadParameter(f"the name of this option is --keep-policies; write --keep-policies {value}")


def command(
    run: Run,
    keep_policies: Annotated[
        int, typer.Option("--keep-policies", metavar="K", help="Keep the newest K policies beside the best.", min=2)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")] = False,
    old_name: Annotated[
        int | None, typer.Option("--keep-checkpoints", hidden=True, is_eager=True, callback=_renamed)
    ] = None,
    json_output: Json = False,
) -> None:
    """Delete policies of earlier rounds; datasets always stay.

    The last two policies and the best by the held-out judge stay too. A deleted policy leaves a record (`.REMOVED.json`) that
    `verify` checks. A round without its policy can still be read and exported, and the run can be continued; only
    `fork` cannot start from it.
    """
    from selfplay.store.lock import RunLock
    from selfplay.store.retention import gc_document
    from selfplay.store.run import Store
    from selfplay.store.writable import require_writable

    store = Store.open(run)
    if not dry_run:
        require_writable(
            store.layout.root, "Only --dry-run works on it. Copy it to your own folder to delete policies there."
        )
    with contextlib.nullcontext() if dry_run else RunLock(store.layout.lock, "gc"):
        document = gc_document(store, keep_policies, dry_run=dry_run)
    write_document(document, _text, as_json=json_output)


def _text(document: dict[str, Any]) -> str:
    done = "to be removed" if document["dry_run"] else "removed"
    words = {"keep": "stays", "remove": done, "gone": "gone"}
    rows = [
        [str(row["round"]), f"{row['num_bytes'] / 1e6:.1f} MB", words[row["action"]], escape_terminal(row["why"])]
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
