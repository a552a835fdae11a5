"""`selfplay status RUN`: where a run stands, and what to do next."""

from __future__ import annotations

from typing import Any

from selfplay.cli.arguments import Json, Run
from selfplay.cli.terminal import number, safe_text, table, write, write_json


def command(run: Run, json_output: Json = False) -> None:
    """Say where a run stands, and what to do next.

    It is running, complete, interrupted, failed, or corrupt (then the exit code is 5).
    """
    from selfplay.inspect.status import status_document

    document = status_document(run)
    if json_output:
        write_json(document)
    else:
        write(_text(document))
    if document["state"] == "corrupt":
        raise SystemExit(5)


def _text(document: dict[str, Any]) -> str:
    lines = [f"{safe_text(document['run'])}: {document['state']}"]
    if document["rounds_planned"] is not None:
        lines.append(f"rounds: {document['rounds_done']} of {document['rounds_planned']} done")
    if document["stage"] is not None:
        verb = "at" if document["state"] == "running" else "next"
        kept = document["shards_kept"]
        under_way = f" ({kept} shards of it are kept)" if kept else ""
        lines.append(f"{verb}: round {document['round']} {document['stage']}{under_way}")
    if document["driver"] is not None:
        lines.append(f"driver: {safe_text(document['driver']['said'])}")
    for problem in document["problems"]:
        lines.append(f"{problem['kind']}: {safe_text(problem['message'])}")
    if document["attempts"]:
        rows = [
            [number(attempt[key]) for key in ("attempt", "started", "ended")] + [_outcome(document, attempt)]
            for attempt in document["attempts"]
        ]
        lines += ["", table(["attempt", "started", "ended", "outcome"], rows, left=(0, 1, 2, 3))]
    return "\n".join([*lines, "", f"next: {safe_text(document['next'])}"])


def _outcome(document: dict[str, Any], attempt: dict[str, Any]) -> str:
    if attempt["outcome"] is None:
        newest = attempt is document["attempts"][-1]
        return "under way" if newest and document["state"] == "running" else "no word of its end: it was killed"
    if not attempt["message"]:
        return safe_text(attempt["outcome"])
    # last words of a worker, examples: the log has them, and --json
    first, *more = attempt["message"].splitlines()
    return safe_text(f"{attempt['outcome']}: {first}{' ...' if more else ''}")
