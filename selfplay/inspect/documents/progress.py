"""Where a run stands in a line, for lists of runs (little is read); how far a run under way is (its stage, last heartbeat)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfplay.core.errors import SelfplayError
from selfplay.core.json_text import parse_json
from selfplay.inspect.documents.driver_status import liveness
from selfplay.store.durable import reading_file
from selfplay.store.layout import attempts_present
from selfplay.store.run import Store
from selfplay.store.run_state import check_committed_files, config_in_force, next_stage, run_state

# of a log's end, what is read for the last word on progress
_TAIL = 16_384


def run_row(store: Store) -> dict[str, Any]:
    """A line of the list: `state` as of `status`, rounds done and planned, what comes next, and the newest evaluation. Raises
    CorruptionError where a committed file is missing."""
    from selfplay.core.outcomes import EvaluateOutcome

    check_committed_files(store)
    found = store.attempt_documents()
    rounds = int(config_in_force(store)["rounds"])
    following = next_stage(store, rounds)
    evaluated = [number for number in store.rounds() if number <= rounds and store.is_committed(number, "evaluate")]
    evaluation = store.outcome(evaluated[-1], EvaluateOutcome).evaluation if evaluated else None
    return {
        "state": run_state(
            store, damaged=False, running=liveness(store, found).running, following=following, attempts=found
        ),
        "rounds_done": max((number for number in evaluated if number), default=0),
        "rounds_planned": rounds,
        "round": following[0] if following else None,
        "stage": following[1] if following else None,
        "reward": evaluation.eval_reward_mean if evaluation else None,
        "gold": evaluation.eval_gold_mean if evaluation else None,
        "created": store.created,
    }


def progress(store: Store) -> list[dict[str, Any]]:
    """The last that the newest attempt said of how far each piece of work is that is under way: `title`, `done`, `total`; the one
    that it spoke of last comes first. Stages that run side by side are several."""
    found: dict[str, dict[str, Any]] = {}
    for event in reversed(_last_events(store)):
        if event.get("event") == "progress":
            total, done = event.get("total"), event.get("done")
            if isinstance(total, int) and isinstance(done, int) and 0 <= done <= total and total:
                title = str(event.get("title"))
                found.setdefault(title, {"title": title, "done": done, "total": total})
        if event.get("event") == "stage":
            break  # what was said before it is over, or has been said again since
    last, *others = found.values() or (None,)
    return [one for one in (last, *(one for one in others if one["done"] < one["total"])) if one is not None]


def loading(store: Store) -> list[str]:
    """What the newest attempt waits for until it is loaded: Ray, or the workers of a role."""
    found: list[str] = []
    for event in _last_events(store):
        what = str(event.get("what"))
        if event.get("event") == "loading":
            found.append(what)
        elif event.get("event") == "loaded" and what in found:
            found.remove(what)
    return found


def _last_events(store: Store) -> list[dict[str, Any]]:
    """The last events of the newest attempt, in order."""
    folder, events = _newest_attempt(store), []
    for line in _tail(folder / "events.jsonl") if folder else []:
        try:
            event = parse_json(line)
        except ValueError:
            continue  # the line is being written, or its beginning was cut off
        if isinstance(event, dict):
            events.append(event)
    return events


def _newest_attempt(store: Store) -> Path | None:
    numbers = attempts_present(store.layout)
    return store.layout.attempt(numbers[-1]) if numbers else None


def _tail(path: Path) -> list[str]:
    try:
        with reading_file(path) as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - _TAIL, 0))
            return file.read(_TAIL).decode("utf-8", "replace").splitlines()
    except (OSError, SelfplayError):
        return []
