"""`selfplay doctor`: checks whether this machine can run selfplay."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import write_document


def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the test import of the libraries, which takes some seconds.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Check whether this machine can run selfplay.

    It checks Python, packages, memory, disk, GPUs, the limits of the shell, temporary files and loopback. Each failure comes
    with what to do, and the exit code is then 1.
    """
    from selfplay.inspect.doctor.doctor import doctor_document

    document = doctor_document(quick=quick)
    write_document(document, _text, as_json=json_output)
    if not document["ok"]:
        raise SystemExit(1)


def _text(document: dict[str, Any]) -> str:
    lines = []
    for finding in document["findings"]:
        lines.append(f"{finding['state']:<4}  {finding['name']}: {escape_terminal(finding['message'])}")
        if finding["hint"]:
            lines.append(f"      -> {escape_terminal(finding['hint'])}")
    return "\n".join(lines)
