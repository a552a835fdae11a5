"""The state of a run in one line, for lists of runs (little is read), and what a running attempt says of its progress."""

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

# of the end of a log, what is read for the last word on progress; of its beginning, for what the attempt began with
_NUM_BYTES = 16_384


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


IDLE: dict[str, Any] = {"progress": None, "side_by_side": [], "overlap": None, "loading": []}
"""`under_way` where no driver is at work."""


def under_way(store: Store) -> dict[str, Any]:
    """What the newest attempt says of itself, as `status --json` has it.

    `progress` and `side_by_side`: how far each piece of work is (`title`, `done`, `total`), first the one that it spoke of last;
    stages that run side by side are several. `overlap`: which `stages` do so, in groups, and in words (`text`) why others take
    turns; None where it has not begun with them. `loading`: what it waits for until that is loaded (Ray, the workers of a role).
    """
    events = _events(store)
    last, *others = _pieces_of_work(events) or (None,)
    first_events = _events(store, at_the_end=False)
    overlap = next((event for event in first_events if event.get("event") == "overlap"), None)
    loading: list[str] = []
    for event in events:
        what = str(event.get("what"))
        if event.get("event") == "loading":
            loading.append(what)
        elif event.get("event") == "loaded" and what in loading:
            loading.remove(what)
    return {
        "progress": last,
        "side_by_side": [each for each in others if each["done"] < each["total"]],
        "overlap": overlap and {name: overlap.get(name) for name in ("stages", "text")},
        "loading": loading,
    }


def _pieces_of_work(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event in reversed(events):
        if event.get("event") == "progress":
            total, done = event.get("total"), event.get("done")
            if isinstance(total, int) and isinstance(done, int) and 0 <= done <= total and total:
                title = str(event.get("title"))
                found.setdefault(title, {"title": title, "done": done, "total": total})
        if event.get("event") == "stage":
            break  # what was said before it is over, or has been said again since
    return list(found.values())


def _events(store: Store, *, at_the_end: bool = True) -> list[dict[str, Any]]:
    """The last events of the newest attempt, or its first ones, in order."""
    numbers, events = attempts_present(store.layout), []
    for line in _lines(store.layout.attempt(numbers[-1]) / "events.jsonl", at_the_end) if numbers else []:
        try:
            event = parse_json(line)
        except ValueError:
            continue  # the line is being written, or was cut off
        if isinstance(event, dict):
            events.append(event)
    return events


def _lines(path: Path, at_the_end: bool) -> list[str]:
    try:
        with reading_file(path) as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - _NUM_BYTES, 0) if at_the_end else 0)
            return file.read(_NUM_BYTES).decode("utf-8", "replace").splitlines()
    except (OSError, SelfplayError):
        return []
