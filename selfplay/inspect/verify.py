"""Is everything in a run what was committed? All injuries are reported, not only the first (`verify`).

The shallow check reads no row: identity, commits and the chain between them, names, sizes, rows in the Parquet
footers, shards kept in `.work/`. The deep one adds the sha256 of every file and what must hold between the rows of
the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.errors import CorruptionError
from selfplay.inspect.chain import Committed, Problem, problems_of_commits, remedy
from selfplay.inspect.reading import SCHEMA_VERSION, attempts
from selfplay.inspect.verify_rows import check_rows
from selfplay.retention import LEAST, held_policies
from selfplay.store.commits import FileEntry
from selfplay.store.durable import sha256_file
from selfplay.store.layout import COMMIT, REMOVED, STAGES, Layout, attempts_present, part_name, rounds_present
from selfplay.store.links import HINT, files_below, links_of_run
from selfplay.store.lock import is_held
from selfplay.store.removed import read_mark
from selfplay.store.run import Store
from selfplay.store.writer import STAGE_MARK, check_mark

# what a kill may leave, and what operating systems put into any folder
LEFT_OVER = (".tmp-", ".trash-", ".DS_Store", ".nfs")


def verify_document(root: Path, *, deep: bool) -> dict[str, Any]:
    """The document of `verify --json`; `ok` is false when `problems` holds any. Raises ConfigError where there is no
    run."""
    layout = Layout(root.absolute())
    try:
        store = Store.open(root)
    except CorruptionError as error:
        problem = Problem("damaged", str(layout.identity), error.message, error.hint)
        return _document(layout.root, deep, [], list(_links(layout, set())) or [problem], work=False)
    commits, problems = problems_of_commits(layout)
    problems += _links(layout, {problem.file for problem in problems})
    whole = not problems
    problems += _strays(store)
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
        problems += check_rows(store, sound)
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
    try:
        attempts(store)
    except CorruptionError as error:
        yield Problem("damaged", str(store.layout.attempts), error.message, error.hint)
    names = store.config_digests or dict.fromkeys(("resolved.json", "pins.json"))
    for name in sorted(names):
        path = store.layout.config / name
        try:
            data = store.config_file(name)
            if name.endswith(".json"):
                json.loads(data)
        except CorruptionError as error:
            yield Problem("damaged" if path.is_file() else "missing", str(path), error.message, error.hint)
        except ValueError as error:
            yield Problem("damaged", str(path), f"{path} is damaged ({error})", "Restore it from a backup.")


def _links(layout: Layout, named: set[str]) -> Iterator[Problem]:
    """Symbolic links: a run has none, and no reader follows one. Those in `named` have been said."""
    for path in links_of_run(layout):
        if str(path) not in named:
            yield Problem("misplaced", str(path), f"{path} is a symbolic link", HINT)


def _strays(store: Store) -> Iterator[Problem]:
    """What is no part of a run in the folders that only selfplay writes to. (What lies beside them is the user's; so are the
    logs of an attempt.) The links there are named as such."""
    layout = store.layout
    rounds = {f"{number:03d}" for number in rounds_present(layout)}
    known = {layout.rounds: rounds, layout.attempts: {f"{number:04d}" for number in attempts_present(layout)}}
    known |= {layout.rounds / name: {*STAGES} for name in sorted(rounds)}
    if store.config_digests is not None:
        known[layout.config] = {*store.config_digests}
    for folder, names in known.items():
        if folder.is_symlink() or not folder.exists():
            continue
        for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
            stands = path.name in names and (path.is_dir() or folder == layout.config)
            if not stands and not path.name.startswith(LEFT_OVER) and not path.is_symlink():
                yield Problem("extra", str(path), f"{path} is no part of the run", "Remove it, or put it elsewhere.")


def _check_removals(store: Store) -> Iterator[Problem]:
    """A problem for each policy that is gone although no gc takes such a one. (A fork may share a round whose policy went
    when that was an early one of the other run.)"""
    inherited = store.forked_from.keys() if store.forked_from else {}
    for held in held_policies(store, LEAST):
        if held.removed and held.stays and (held.round, "train") not in inherited:
            path = store.layout.stage(held.round, "train") / REMOVED
            message = f"{path} says that gc took the policy of round {held.round}, which is {held.stays}: gc never does"
            yield Problem("damaged", str(path), message, remedy(path.parent))


def _check_files(committed: Committed, deep: bool) -> Iterator[Problem]:
    folder, entries = committed.folder, committed.commit.files
    try:
        mark = read_mark(folder, committed.commit, committed.digest)
    except CorruptionError as error:
        yield Problem("damaged", str(folder / REMOVED), error.message, error.hint)
        return
    for entry in entries:
        if mark is None or not mark.covers(entry.path):
            yield from _check_file(folder, entry, deep)
    known = {entry.path for entry in entries} | {COMMIT}
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name not in known and not path.name.startswith(".") and not path.is_symlink():  # links are named as such
            hint = f"Remove it: {folder} is read as a whole."
            yield Problem("extra", str(path), f"{path} is not in the commit of its stage", hint)


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
            check_mark(folder)
        except CorruptionError as error:
            yield Problem("shard", str(folder / STAGE_MARK), error.message, error.hint)
    for sidecar in sorted(layout.work.glob("[0-9]*-*/**/.part-*.json")):
        part = sidecar.with_name(part_name(int(sidecar.stem.removeprefix(".part-"))))
        hint = f"Remove {sidecar} (and {part.name} beside it) and resume: that shard will be made again."
        try:
            document = json.loads(sidecar.read_bytes())
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
        elif deep and pq.read_metadata(part).num_rows != rows:
            yield Problem("shard", str(sidecar), f"{sidecar} is damaged: {part.name} has other rows", hint)
