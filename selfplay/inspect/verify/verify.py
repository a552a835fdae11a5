"""Is everything in a run what was committed? All damage is reported, not only the first (`verify`).

The shallow check reads no row: identity, commits and the chain between them, names, sizes, rows in the Parquet
footers, shards kept in `.work/`. The deep one adds the sha256 of every file and what must hold between the rows of
the tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfplay.core.errors import CorruptionError
from selfplay.core.json_text import parse_json
from selfplay.inspect.reading import SCHEMA_VERSION, open_store, run_root
from selfplay.inspect.verify.commit_chain import Commits, Committed, Problem, problems_of_commits
from selfplay.inspect.verify.verify_rows import check_rows
from selfplay.store.commits import damage, remedy
from selfplay.store.layout import COMMIT, REMOVED, Layout, attempts_present, sidecars_in
from selfplay.store.lock import is_held
from selfplay.store.manifest import check_files
from selfplay.store.retention import LEAST, stored_policies
from selfplay.store.run import Store
from selfplay.store.symlinks import HINT, symlinks_in_run
from selfplay.store.writer import BORDERS, STAGE_MARK, read_borders, read_sidecar, read_stage_mark, shard_remedy


def verify_document(root: Path, *, deep: bool) -> dict[str, Any]:
    """The document of `verify --json`; `ok` is false when `problems` holds any. Raises ConfigError where there is no
    run."""
    layout = Layout(run_root(root).absolute())
    try:
        store = open_store(root)
    except CorruptionError as error:
        problem = Problem("damaged", str(layout.identity), error.message, error.hint)
        return _document(layout.root, deep, [], list(_links(layout, set())) or [problem], work=False)
    commits, problems = problems_of_commits(store)
    problems += _links(layout, {problem.file for problem in problems})
    whole = not problems
    problems += _check_places(store)
    problems += _check_attempts(store, commits)
    outside = list(_outside_of_rounds(store))
    problems += outside
    sound: set[tuple[int, str]] = set()
    for key, committed in commits.items():
        found = list(_check_files(committed, deep))
        problems += found
        if not found:
            sound.add(key)
    if whole and len(sound) == len(commits):
        problems += _check_removals(store)
    if deep and not outside:  # rows are checked against the settings
        try:
            problems += check_rows(store, sound)
        except CorruptionError as error:
            problems.append(Problem("damaged", str(layout.attempts), error.message, error.hint))
    # a driver at work moves shards about while they are looked at: they are its own to check
    work = not is_held(store.layout.lock)
    if work:
        problems += _check_work(store.layout, deep)
    return _document(store.layout.root, deep, list(commits.values()), problems, work=work)


def _document(
    root: Path, deep: bool, commits: list[Committed], problems: list[Problem], *, work: bool
) -> dict[str, Any]:
    files = [entry for committed in commits for entry in committed.commit.files]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(root),
        "deep": deep,
        "ok": not problems,
        "num_commits": len(commits),
        "num_files": len(files),
        "num_bytes": sum(entry.num_bytes for entry in files),
        "work_checked": work,
        "problems": [asdict(problem) for problem in problems],
    }


def _outside_of_rounds(store: Store) -> Iterator[Problem]:
    """Configuration and attempts: small files that no commit covers, but that a resume reads."""
    for number in attempts_present(store.layout):
        folder = store.layout.attempt(number)
        for name in ("attempt.json", "end.json") if folder.is_dir() and not folder.is_symlink() else ():
            path = folder / name
            try:
                store.attempt_file(number, name)
            except CorruptionError as error:
                yield Problem("damaged" if path.exists() else "missing", str(path), error.message, error.hint)
    for name in sorted(store.config_digests):
        path = store.layout.config / name
        try:
            data = store.config_file(name)
            if name.endswith(".json"):
                parse_json(data)
        except CorruptionError as error:
            yield Problem("damaged" if path.is_file() else "missing", str(path), error.message, error.hint)
        except ValueError as error:
            yield Problem("damaged", str(path), f"{path} is damaged ({error})", "Restore it from a backup.")


def _links(layout: Layout, named: set[str]) -> Iterator[Problem]:
    """Symbolic links: a run has none, and no reader follows one. Those in `named` are already reported."""
    for path in symlinks_in_run(layout):
        if str(path) not in named:
            yield Problem("misplaced", str(path), f"{path} is a symbolic link", HINT)


def _check_places(store: Store) -> Iterator[Problem]:
    """What is missing, or of another kind, in the places that a run begins with. (The links there are named as such.)"""
    layout = store.layout
    if not layout.rounds.exists() and not layout.rounds.is_symlink():
        message = f"{layout.rounds} is missing"
        yield Problem("missing", str(layout.rounds), message, "Restore it from a backup.")
    for folder in (layout.rounds, layout.attempts, layout.config):
        if folder.exists() and not folder.is_symlink() and not folder.is_dir():
            yield Problem("extra", str(folder), f"{folder} is not a folder", "Remove it, or move it elsewhere.")
    for place, kind in ((layout.work, "folder"), (layout.lock, "regular file")):
        if place.exists() and not (place.is_dir() if kind == "folder" else place.is_file()):
            yield Problem("damaged", str(place), f"{place} is not a {kind}", "Remove it: it is created again.")


def _check_attempts(store: Store, commits: Commits) -> Iterator[Problem]:
    """A problem for each attempt that made a stage and is missing, and for each stage with another fingerprint than most
    stages of its attempt: settings and inputs do not change within an attempt, so the stage is from another run."""
    inherited = store.forked_from.keys() if store.forked_from else {}
    made: dict[int, list[Committed]] = {}
    for key, committed in commits.items():
        if key not in inherited:
            made.setdefault(committed.commit.attempt, []).append(committed)
    for attempt in sorted(made.keys() - {*attempts_present(store.layout)}):
        path = store.layout.attempt(attempt)
        message = f"{path} is missing, but it made stages of this run"
        yield Problem("missing", str(path), message, "Restore it from a backup.")
    for attempt, stages in sorted(made.items()):
        usual = statistics.mode(committed.commit.fingerprint for committed in stages)
        for committed in stages:
            if committed.commit.fingerprint != usual:
                path = committed.folder / COMMIT
                message = f"{path} was made from other settings or inputs than the other stages of attempt {attempt}"
                yield Problem("misplaced", str(path), message, remedy(committed.folder))


def _check_removals(store: Store) -> Iterator[Problem]:
    """A problem for each deleted policy that gc would not delete. (A fork may share a round whose policy went
    when that was an early one of the other run.)"""
    inherited = store.forked_from.keys() if store.forked_from else {}
    for held in stored_policies(store, LEAST):
        if held.removed and held.keep_reason and (held.round, "train") not in inherited:
            path = store.layout.stage(held.round, "train") / REMOVED
            message = f"{path} says that gc deleted the policy of round {held.round}, but gc keeps {held.keep_reason}"
            yield Problem("damaged", str(path), message, remedy(path.parent))


def _check_files(committed: Committed, deep: bool) -> Iterator[Problem]:
    """A problem for each file of a stage that is not what was committed."""
    folder = committed.folder
    try:
        for item in damage(folder, committed.commit, committed.digest, rows=True, digests=deep):
            hint = f"Remove it: {folder} is read as a whole." if item.kind == "extra" else remedy(folder)
            yield Problem(item.kind, str(item.path), str(item), hint)
    except CorruptionError as error:
        yield Problem("damaged", str(folder / REMOVED), error.message, error.hint)


def _check_work(layout: Layout, deep: bool) -> Iterator[Problem]:
    """Shards that an attempt kept for a stage that is not committed yet: a resume adopts them. (What a kill left of
    a removal begins with a dot and is ignored.)"""
    # a link among them has been said
    folders = [path for path in sorted(layout.work.glob("[0-9]*-*")) if not path.is_symlink()]
    for folder in folders:
        if folder.name.endswith("-trainer"):
            continue
        try:
            read_stage_mark(folder)
        except CorruptionError as error:
            yield Problem("shard", str(folder / STAGE_MARK), error.message, error.hint)
        for borders in sorted(folder.rglob(BORDERS)):
            try:
                read_borders(borders)
            except CorruptionError as error:
                yield Problem("shard", str(borders), error.message, error.hint)
    for sidecar in (path for folder in folders for path in sidecars_in(folder)):
        try:
            entry, _ = read_sidecar(sidecar)
        except CorruptionError as error:
            yield Problem("shard", str(sidecar), error.message, error.hint)
            continue
        for item in check_files(sidecar.parent, [entry], rows=deep, digests=deep):
            yield Problem("shard", str(item.path), str(item), shard_remedy(sidecar))
