"""`selfplay status [RUN]`: the state of a run, and what to do next; for a folder of runs, the state of each."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import table, write, write_document

# seconds between two looks of --watch
EVERY = 2.0


def command(
    place: Annotated[Path, typer.Argument(metavar="[RUN|RUNS]", help="A run, or a folder of runs.")] = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Repeat when the state changes, until nothing runs.")] = False,
    json_output: Json = False,
) -> None:
    """Show how far a run is, and what to do next.

    For a folder of runs, or a comparison, it shows the state of each. A run is running, complete, interrupted, failed, not begun
    (a fork), pool (of a comparison), or corrupt (then the exit code is 5). With --watch and --json each change is a document of
    one line.
    """
    document = _document(place)
    if watch:
        document = _watched(place, document, json_output)
    else:
        write_document(document, _text, as_json=json_output)
    if "corrupt" in _states(document):
        raise SystemExit(5)


def _document(place: Path) -> dict[str, Any]:
    from selfplay.inspect.documents.runs import runs_document, runs_in
    from selfplay.inspect.documents.status import status_document

    return runs_document(place) if runs_in(place) else status_document(place)


def _states(document: dict[str, Any]) -> set[str]:
    return {run["state"] for run in document["runs"]} if "runs" in document else {document["state"]}


def _watched(place: Path, document: dict[str, Any], json_output: bool) -> dict[str, Any]:
    """Show it, and show it again when it reads differently, until no run is under way; returns the last document."""
    shown = ""
    while True:
        text = json.dumps(document, ensure_ascii=True, allow_nan=False) if json_output else _text(document)
        # the age of the heartbeat alone is not a change
        if _without_ages(document) != shown:
            shown = _without_ages(document)
            if sys.stdout.isatty() and not json_output:
                text = f"\x1b[H\x1b[J{text}"
            write(text)
            sys.stdout.flush()
        if "running" not in _states(document):
            return document
        time.sleep(EVERY)
        document = _document(place)


def _without_ages(document: dict[str, Any]) -> str:
    driver = document.get("driver")
    return json.dumps({**document, "driver": driver and [driver["pid"], driver["host"], driver["alive"]]})


def _runs_text(document: dict[str, Any]) -> str:
    rows = []
    for run in document["runs"]:
        done = "-" if run["rounds_done"] is None else f"{run['rounds_done']} of {run['rounds_planned']}"
        at = "-" if run["stage"] is None else f"round {run['round']} {run['stage']}"
        numbers = [number(run[key]) for key in ("reward", "gold", "created")]
        rows.append([escape_terminal(run["name"]), run["state"], done, at, *numbers])
    return table(["run", "state", "rounds", "at, or next", "reward", "gold", "created"], rows, left=(0, 1, 2, 3, 6))


def _text(document: dict[str, Any]) -> str:
    if "runs" in document:
        return _runs_text(document)
    lines = [f"{escape_terminal(document['run'])}: {document['state']}"]
    if document["rounds_planned"] is not None:
        lines.append(f"rounds: {document['rounds_done']} of {document['rounds_planned']} done")
    if document["stage"] is not None:
        verb = "at" if document["state"] == "running" else "next"
        kept = document["shards_kept"]
        of_it = f" ({kept} shards of it are kept)" if kept else ""
        lines.append(f"{verb}: round {document['round']} {document['stage']}{of_it}")
    under_way = [document["progress"]] if document["progress"] is not None else []
    for each in [*under_way, *document["side_by_side"]]:
        title, done, total = (each[name] for name in ("title", "done", "total"))
        lines.append(f"progress: {escape_terminal(title)}: {done:,} of {total:,}")
    if document["overlap"] is not None:
        lines.append(f"order: {escape_terminal(document['overlap']['text'])}")
    if document["loading"]:
        lines.append(f"loading: {escape_terminal(', '.join(document['loading']))}")
    if document["driver"] is not None:
        lines.append(f"driver: {escape_terminal(document['driver']['said'])}")
    for problem in document["problems"]:
        lines.append(f"{problem['kind']}: {escape_terminal(problem['message'])}")
    if document["attempts"]:
        rows = [
            [number(attempt[key]) for key in ("attempt", "started", "ended")] + [_outcome(document, attempt)]
            for attempt in document["attempts"]
        ]
        lines += ["", table(["attempt", "started", "ended", "outcome"], rows, left=(0, 1, 2, 3))]
    return "\n".join([*lines, "", f"next: {escape_terminal(document['next'])}"])


def _outcome(document: dict[str, Any], attempt: dict[str, Any]) -> str:
    if attempt["outcome"] is None:
        newest = attempt is document["attempts"][-1]
        return "under way" if newest and document["state"] == "running" else "killed: its end is not recorded"
    if not attempt["message"]:
        return escape_terminal(attempt["outcome"])
    # last words of a worker, examples: the log has them, and --json
    first, *more = attempt["message"].splitlines()
    return escape_terminal(f"{attempt['outcome']}: {first}{' ...' if more else ''}")
