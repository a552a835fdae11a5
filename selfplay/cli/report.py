"""`selfplay report RUN`: one HTML file that says what the run did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import write_document

Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: report.html in the run.")
]
Redact = Annotated[bool, typer.Option("--redact", help="Leave out all text of prompts and responses.")]


def command(run: Run, out: Out = None, redact: Redact = False, json_output: Json = False) -> None:
    """Write one HTML file that shows what the run did.

    It has no script and loads nothing: warnings first, then lineage, rounds, plots, examples, and how to repeat the run.
    """
    from selfplay.inspect.reading import SCHEMA_VERSION, open_store
    from selfplay.inspect.report.contents import gather
    from selfplay.inspect.report.writing import write as write_report
    from selfplay.store.writable import require_writable

    store = open_store(run)
    if out is None:
        again = shell_command("report", run, "--out", "FILE")
        require_writable(store.layout.root, f"Write the report elsewhere: {again}")
    report = gather(store, redact=redact)
    path = write_report(store, report, out)
    document = {
        "schema_version": SCHEMA_VERSION,
        "report": str(path),
        "num_bytes": path.stat().st_size,
        "redacted": redact,
        "rounds": [row.round for row in report.rows],
        "num_warnings": len(report.warnings),
    }
    write_document(document, lambda found: escape_terminal(found["report"]), as_json=json_output)
