"""`selfplay verify RUN`: checks that a run has exactly the committed files and rows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.errors import CorruptionError
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import note, write_document


def command(
    run: Run,
    deep: Annotated[bool, typer.Option("--deep", help="Also check the sha256 of every file, and the rows.")] = False,
    json_output: Json = False,
) -> None:
    """Check a run's files and list all damage.

    Each problem is shown with the file and what to do; the exit code is then 5.
    """
    from selfplay.inspect.verify.verify import verify_document

    document = verify_document(run, deep=deep)
    write_document(document, _text, as_json=json_output)
    problems = document["problems"]
    if problems and not json_output:
        note(f"{len(problems)} problems in {escape_terminal(str(run))}")
    elif not json_output and not document["work_checked"]:
        note("a driver is running: its scratch files were not checked")
    if problems:
        raise SystemExit(CorruptionError.exit_code)


def _text(document: dict[str, Any]) -> str:
    if document["problems"]:
        return "\n".join(
            f"{problem['kind']}: {escape_terminal(problem['message'])}\n  -> {escape_terminal(problem['hint'])}"
            for problem in document["problems"]
        )
    what = (
        "digests, lineage and rows agree"
        if document["deep"]
        else "names, sizes and lineage agree; --deep reads everything"
    )
    size = f"{document['num_bytes'] / 1e6:.1f} MB"
    return f"sound: {document['num_commits']} commits, {document['num_files']} files, {size}; {what}"
