"""`selfplay verify RUN`: is everything there, and is it what was committed?"""

from __future__ import annotations

from typing import Annotated

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.errors import CorruptionError
from selfplay.core.escape import safe_text
from selfplay.core.terminal import note, write, write_json


def command(
    run: Run,
    deep: Annotated[bool, typer.Option("--deep", help="The content of every file, and the rows, too.")] = False,
    json_output: Json = False,
) -> None:
    """Check a run's files; name every injury.

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
            write(f"{problem['kind']}: {safe_text(problem['message'])}\n  -> {safe_text(problem['hint'])}")
        note(f"{len(problems)} problems in {safe_text(str(run))}")
        raise SystemExit(CorruptionError.exit_code)
    if not json_output:
        what = "digests, lineage and rows agree" if deep else "names, sizes and lineage agree; --deep reads everything"
        size = f"{document['num_bytes'] / 1e6:.1f} MB"
        write(f"sound: {document['num_commits']} commits, {document['num_files']} files, {size}; {what}")
        if not document["work_checked"]:
            note("a driver is at work: its scratch was not looked at")
