"""The state of a run, from its commits, its lock and its attempts (`status`). There is no state file to disagree with
them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfplay.core.commands import shell_command
from selfplay.core.errors import CorruptionError
from selfplay.inspect.documents.driver_status import liveness
from selfplay.inspect.documents.progress import IDLE, under_way
from selfplay.inspect.reading import SCHEMA_VERSION, open_store
from selfplay.inspect.verify.commit_chain import Problem, problems_of_commits
from selfplay.store.commits import check_stage
from selfplay.store.layout import sidecars_in
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection, next_stage, run_state, stages_in


def status_document(root: Path) -> dict[str, Any]:
    """The document of `status --json`.

    `state` is that of `store.run_state.run_state`; of a corrupt run `problems` names the files. `round` and `stage` are
    what is under way or comes next, null when nothing is left. `progress`, `side_by_side`, `overlap` and `loading` say what
    a driver at work does (see `under_way`). `driver` is the process at work, or the last one if its end was not recorded.
    Raises ConfigError where there is no run.
    """
    try:
        store = open_store(root)
        found = store.attempt_documents()
        rounds = int(config_in_force(store)["rounds"])
    except CorruptionError as error:
        return _unreadable(root, error)
    problems = _problems(store)
    following = next_stage(store, rounds)
    driver = liveness(store, found)
    state = run_state(store, damaged=bool(problems), running=driver.running, following=following, attempts=found)
    done = [
        number
        for number in store.rounds()
        if 1 <= number <= rounds and all(store.is_committed(number, name) for name in stages_in(store, number))
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "state": state,
        "rounds_done": len(done),
        "rounds_planned": rounds,
        "round": following[0] if following else None,
        "stage": following[1] if following else None,
        "run": str(store.layout.root),
        "run_id": store.run_id,
        "created": store.created,
        "shards_kept": _shards_kept(store, following),
        **(under_way(store) if state == "running" else IDLE),
        "driver": driver.to_json(),
        "attempts": [_attempt(document) for document in found],
        "problems": [asdict(problem) for problem in problems],
        "next": _next(state, store, root, rounds, problems),
    }


def _unreadable(root: Path, error: CorruptionError) -> dict[str, Any]:
    """The document of a run whose identity, configuration or attempts cannot be read."""
    problem = Problem("damaged", str(root), error.message, error.hint)
    keys = ("rounds_done", "rounds_planned", "round", "stage", "run_id", "created", "shards_kept", "driver")
    return {
        "schema_version": SCHEMA_VERSION,
        "state": "corrupt",
        **dict.fromkeys(keys),
        **IDLE,
        "run": str(root.absolute()),
        "attempts": [],
        "problems": [asdict(problem)],
        "next": error.hint,
    }


def _problems(store: Store) -> list[Problem]:
    commits, problems = problems_of_commits(store)
    for committed in commits.values():
        try:
            check_stage(committed.folder, committed.commit, committed.digest)
        except CorruptionError as error:
            problems.append(Problem("missing", str(committed.folder), error.message, error.hint))
    return problems


def _shards_kept(store: Store, following: tuple[int, str] | None) -> int:
    """Shards that the stage under way has kept so far."""
    if following is None:
        return 0
    return len(sidecars_in(store.layout.stage_work(*following)))


def _attempt(document: dict[str, Any]) -> dict[str, Any]:
    end = document["end"] or {}
    return {
        "attempt": document["attempt"],
        "started": document["started"],
        "ended": end.get("ended"),
        "outcome": end.get("outcome"),
        "message": end.get("message") or None,
        "pid": document.get("pid"),
        "host": document.get("host"),
    }


def _next(state: str, store: Store, root: Path, rounds: int, problems: list[Problem]) -> str:
    if is_selection(store) and state in ("complete", "interrupted", "failed"):
        same = "give the same `selfplay select` command again"
        return {
            "complete": shell_command("pairs", root, 1),
            "interrupted": same,
            "failed": f"fix the cause, then {same}",
        }[state]
    return {
        "running": "the run is in progress; Ctrl-C in its terminal (or SIGTERM to the driver) stops it safely",
        "complete": f"{shell_command('rounds', root)}, or more rounds: {shell_command('resume', root, f'rounds={rounds + 1}')}",
        "interrupted": shell_command("resume", root),
        "not begun": shell_command("resume", root),
        "pool": f"the arms of the comparison are forked from it: {shell_command('status', root.absolute().parents[2])}",
        "failed": f"fix the cause that the message gives, then: {shell_command('resume', root)}",
        "corrupt": problems[0].hint if problems else "",
    }[state]
