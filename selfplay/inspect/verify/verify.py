"""Is everything in a run what was committed? All injuries are reported, not only the first (`verify`).

The shallow check reads no row: identity, commits and the chain between them, names, sizes, rows in the Parquet
footers, shards kept in `.work/`. The deep one adds the sha256 of every file and what must hold between the rows of
the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.errors import CorruptionError
from selfplay.core.stages import STAGE_NAMES
from selfplay.inspect.query.open import open_store
from selfplay.inspect.reading import SCHEMA_VERSION
from selfplay.inspect.verify.commit_chain import Commits, Committed, Problem, problems_of_commits, remedy
from selfplay.inspect.verify.verify_rows import check_rows
from selfplay.store.durable import parse_json, read_file, sha256_file
from selfplay.store.layout import (
    COMMIT,
    REMOVED,
    Layout,
    attempts_present,
    part_name,
    rounds_present,
    sidecar_index,
)
from selfplay.store.lock import is_held
from selfplay.store.manifest import Commit, FileEntry
from selfplay.store.retention import LEAST, stored_policies
from selfplay.store.run import Store
from selfplay.store.symlinks import HINT, files_below, symlinks_in_run
from selfplay.store.tombstone import read_tombstone
from selfplay.store.writer import STAGE_MARK, read_stage_mark

# what a kill may leave, and what operating systems put into any folder
LEFT_OVER = (".tmp-", ".trash-", ".DS_Store", ".nfs")


def verify_document(root: Path, *, deep: bool) -> dict[str, Any]:
    """The document of `verify --json`; `ok` is false when `problems` holds any. Raises ConfigError where there is no
    run."""
    layout = Layout(root.absolute())
    try:
        store = open_store(root)
    except CorruptionError as error:
        problem = Problem("damaged", str(layout.identity), error.message, error.hint)
        return _document(layout.root, deep, [], list(_links(layout, set())) or [problem], work=False)
    commits, problems = problems_of_commits(layout)
    problems += _links(layout, {problem.file for problem in problems})
    whole = not problems
    problems += _strays(store)
    problems += _check_makers(store, commits)
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
    names = store.config_digests or dict.fromkeys(("resolved.json", "pins.json"))
    for name in sorted(names):
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
    """Symbolic links: a run has none, and no reader follows one. Those in `named` have been said."""
    for path in symlinks_in_run(layout):
        if str(path) not in named:
            yield Problem("misplaced", str(path), f"{path} is a symbolic link", HINT)


def _strays(store: Store) -> Iterator[Problem]:
    """What is no part of a run in the folders that only selfplay writes to. (What lies beside them is the user's; so are the
    logs of an attempt.) The links there are named as such."""
    layout = store.layout
    rounds = {f"{number:03d}" for number in rounds_present(layout)}
    known = {layout.rounds: rounds, layout.attempts: {f"{number:04d}" for number in attempts_present(layout)}}
    known |= {layout.rounds / name: {*STAGE_NAMES} for name in sorted(rounds)}
    if store.config_digests is not None:
        known[layout.config] = {*store.config_digests}
    if not layout.rounds.exists() and not layout.rounds.is_symlink():
        hint = "Restore it from a backup."
        yield Problem("missing", str(layout.rounds), f"{layout.rounds} is missing: a run begins with it", hint)
    for place, kind in ((layout.work, "folder"), (layout.lock, "ordinary file")):
        if place.exists() and not (place.is_dir() if kind == "folder" else place.is_file()):
            yield Problem("damaged", str(place), f"{place} is no {kind}", "Remove it: it is made again.")
    for folder, names in known.items():
        if folder.is_symlink() or not folder.exists():
            continue
        for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
            # rounds and stages that are no folders are named with the commits
            stands = path.name in names and (folder != layout.attempts or path.is_dir())
            if not stands and not path.name.startswith(LEFT_OVER) and not path.is_symlink():
                yield Problem("extra", str(path), f"{path} is no part of the run", "Remove it, or put it elsewhere.")


def _check_makers(store: Store, commits: Commits) -> Iterator[Problem]:
    """A problem for each stage of the run's own that none of its attempts made: of an attempt that is not there, or made from
    other settings than the rest of what its attempt made (a stage of another run, put here)."""
    inherited = store.forked_from.keys() if store.forked_from else {}
    own = {key: committed for key, committed in commits.items() if key not in inherited}
    present = {*attempts_present(store.layout)}
    made: dict[int, Counter[str]] = {}
    for committed in own.values():
        made.setdefault(committed.commit.attempt, Counter())[committed.commit.fingerprint] += 1
    for attempt in sorted(made.keys() - present):
        path = store.layout.attempt(attempt)
        yield Problem(
            "missing", str(path), f"{path} is missing, but stages were made by it", "Restore it from a backup."
        )
    for committed in own.values():
        commit = committed.commit
        ((usual, _),) = made[commit.attempt].most_common(1)
        if commit.fingerprint != usual:
            what = "was made from other settings than the rest of what attempt"
            message = f"{committed.folder / COMMIT} {what} {commit.attempt} made"
            yield Problem("misplaced", str(committed.folder / COMMIT), message, remedy(committed.folder))


def _check_removals(store: Store) -> Iterator[Problem]:
    """A problem for each policy that is gone although no gc takes such a one. (A fork may share a round whose policy went
    when that was an early one of the other run.)"""
    inherited = store.forked_from.keys() if store.forked_from else {}
    for held in stored_policies(store, LEAST):
        if held.removed and held.keep_reason and (held.round, "train") not in inherited:
            path = store.layout.stage(held.round, "train") / REMOVED
            message = (
                f"{path} says that gc took the policy of round {held.round}, which is {held.keep_reason}: gc never does"
            )
            yield Problem("damaged", str(path), message, remedy(path.parent))


def _check_files(committed: Committed, deep: bool) -> Iterator[Problem]:
    folder, entries = committed.folder, committed.commit.files
    try:
        mark = read_tombstone(folder, committed.commit, committed.digest)
    except CorruptionError as error:
        yield Problem("damaged", str(folder / REMOVED), error.message, error.hint)
        return
    for entry in entries:
        if mark is None or not mark.contains(entry.path):
            yield from _check_file(folder, entry, deep)
    known = {entry.path: entry for entry in entries}
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name in known or name in (COMMIT, REMOVED) or path.name.startswith(LEFT_OVER) or path.is_symlink():
            continue  # links are named as such
        index = sidecar_index(path)
        part = None if index is None else known.get(path.with_name(part_name(index)).relative_to(folder).as_posix())
        if name == STAGE_MARK or part is not None:
            if not _agrees(path, committed.commit, part):
                message = f"{path} does not agree with the commit of its stage"
                yield Problem("damaged", str(path), message, "Remove it: nothing reads it any more.")
        else:
            hint = f"Remove it: {folder} is read as a whole."
            yield Problem("extra", str(path), f"{path} is not in the commit of its stage", hint)


def _agrees(path: Path, commit: Commit, part: FileEntry | None) -> bool:
    """Whether what was kept in a stage's work folder beside its shards, and published with it, says what the commit says: the
    mark, or the sidecar of `part`."""
    try:
        if part is None:
            return read_stage_mark(path.parent) == {"fingerprint": commit.fingerprint, "inputs": commit.inputs}
        found = parse_json(read_file(path))
    except (CorruptionError, OSError, ValueError):
        return False
    return bool(found == {"num_bytes": part.num_bytes, "sha256": part.sha256, "rows": part.rows})


def _check_file(folder: Path, entry: FileEntry, deep: bool) -> Iterator[Problem]:
    path = folder / entry.path
    if any(above.is_symlink() for above in path.parents if folder in above.parents):
        yield Problem("missing", str(path), f"{path} is missing: a folder above it is a symbolic link", remedy(folder))
        return
    if path.is_symlink() or not path.is_file():
        yield Problem("missing", str(path), f"{path} is missing", remedy(folder))
        return
    size = path.stat().st_size
    if size != entry.num_bytes:
        yield Problem("size", str(path), f"{path} has {size} bytes, its commit says {entry.num_bytes}", remedy(folder))
        return
    if deep and sha256_file(path) != entry.sha256:
        yield Problem("digest", str(path), f"{path} is not what was committed: its sha256 differs", remedy(folder))
        return
    if entry.rows is not None:
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            yield Problem("damaged", str(path), f"{path} cannot be read as Parquet ({error})", remedy(folder))
            return
        if rows != entry.rows:
            yield Problem("rows", str(path), f"{path} has {rows} rows, its commit says {entry.rows}", remedy(folder))


def _check_work(layout: Layout, deep: bool) -> Iterator[Problem]:
    """Shards that an attempt kept for a stage that is not committed yet: a resume adopts them. (What a kill left of
    a removal begins with a dot and is nobody's.)"""
    for folder in sorted(layout.work.glob("[0-9]*-*")):
        if folder.name.endswith("-trainer"):
            continue
        try:
            read_stage_mark(folder)
        except CorruptionError as error:
            yield Problem("shard", str(folder / STAGE_MARK), error.message, error.hint)
    for sidecar in sorted(layout.work.glob("[0-9]*-*/**/.part-*.json")):
        index = sidecar_index(sidecar)
        if index is None:
            continue  # of no shard: a resume discards it
        part = sidecar.with_name(part_name(index))
        hint = f"Remove {sidecar} (and {part.name} beside it) and resume: that shard will be made again."
        try:
            document = parse_json(read_file(sidecar))
            num_bytes, sha256, rows = document["num_bytes"], document["sha256"], document["rows"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            yield Problem("shard", str(sidecar), f"{sidecar} is damaged ({error})", hint)
            continue
        if not part.is_file():
            yield Problem("shard", str(part), f"{part} is missing, but was kept", hint)
        elif part.stat().st_size != num_bytes:
            yield Problem("shard", str(part), f"{part} has {part.stat().st_size} bytes, {num_bytes} were kept", hint)
        elif deep and sha256_file(part) != sha256:
            yield Problem("shard", str(part), f"{part} is not what was kept: its sha256 differs", hint)
        elif deep and _num_rows(part) != rows:
            yield Problem("shard", str(sidecar), f"{sidecar} is damaged: {part.name} has other rows", hint)


def _num_rows(part: Path) -> int | None:
    try:
        return int(pq.read_metadata(part).num_rows)
    except (pa.ArrowException, OSError):
        return None
