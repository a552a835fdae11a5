"""`selfplay verify RUN`: is everything there, and is it what was committed?"""

from __future__ import annotations

from typing import Annotated

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.errors import CorruptionError
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import note, write, write_json


def command(
    run: Run,
    deep: Annotated[bool, typer.Option("--deep", help="Also check the content of every file, and the rows.")] = False,
    json_output: Json = False,
) -> None:
    """Check a run's files and list all damage.

    Each with the file and the remedy; the exit code is then 5.
    """
    from selfplay.inspect.verify.verify import verify_document

    document = verify_document(run, deep=deep)
    if json_output:
        write_json(document)
    problems = document["problems"]
    if problems and json_output:
        raise SystemExit(CorruptionError.exit_code)
    if problems:
        for problem in problems:
            write(f"{problem['kind']}: {escape_terminal(problem['message'])}\n  -> {escape_terminal(problem['hint'])}")
        note(f"{len(problems)} problems in {escape_terminal(str(run))}")
        raise SystemExit(CorruptionError.exit_code)
    if not json_output:
        what = "digests, lineage and rows agree" if deep else "names, sizes and lineage agree; --deep reads everything"
        size = f"{document['num_bytes'] / 1e6:.1f} MB"
        write(f"sound: {document['num_commits']} commits, {document['num_files']} files, {size}; {what}")
        if not document["work_checked"]:
            note("a driver is running: its scratch files were not checked")
