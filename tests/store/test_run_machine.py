"""Anything may happen to a run in any order: work, crashes in the middle of any operation, resumes, second drivers, changed
settings, and injuries of any file.

Invariants: what was committed stays as it was, byte for byte, and its digests are one chain; a crash is never taken for an
injury; each injury is named, with its file, by `verify`; and no stage is made from an injured one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from selfplay.core.errors import ConfigError, CorruptionError, LockedError
from selfplay.inspect.verify.verify import verify_document
from selfplay.store import durable
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from selfplay.store.writer import StageWriter
from tests.helpers.outcomes import outcome_of

# A line of stages, each made from the one before it.
STAGES = [(number, name) for number in (1, 2) for name in ("prompts", "sample", "train")]
SHARDS = 2
CREATED = "2026-01-01T00:00:00Z"
CONFIG = {"resolved.json": b'{"seed": 0}', "pins.json": b"{}", "given.yaml": b"seed: 0\n"}


# What happened over all runs of the machine: a rule that never applies would test nothing.
HAPPENED: Counter[str] = Counter()
LEAST = {
    "resumed": 200, "shard": 60, "stage": 50, "killed in an operation": 60, "second driver": 50, "other settings": 50,
    "flip_a_bit": 20, "truncate": 20, "delete": 30, "swap": 30, "refused as an input": 20,
}  # fmt: skip
# None: the process lives on; else the operations of the store after which it is killed.
DIES = st.none() | st.integers(0, 40)


class Killed(BaseException):
    """kill -9: nothing that follows is done."""


def rows(key: tuple[int, str], index: int) -> pa.Table:
    return pa.table({"id": [f"{key[0]}-{key[1]}-{index}-{row}" for row in range(3)]})


class Run(RuleBasedStateMachine):
    """One run directory. What the model knows: `committed` (stage -> its files' bytes and its digest), `shards` that were
    acknowledged, and the `injured` file, if there is one (an injury is healed before the next)."""

    def __init__(self) -> None:
        super().__init__()
        self.ground = Path(tempfile.mkdtemp(prefix="machine-"))
        self.root = self.ground / "run"
        self.committed: dict[tuple[int, str], tuple[dict[str, bytes], str]] = {}
        self.shards: set[tuple[tuple[int, str], int]] = set()
        self.fingerprint = "fingerprint"
        self.store: Store | None = None
        self.writer: StageWriter | None = None
        self.lock: RunLock | None = None
        self.attempt = 0
        self.left: int | None = None  # operations until the process is killed
        self.healing: Callable[[], None] | None = None
        self.injured: list[Path] = []
        self.worked = 0  # steps of work since the last injury: there must be something to injure

    def teardown(self) -> None:
        if self.lock is not None:
            self.lock.__exit__(None, None, None)
        durable.operations = durable.Operations()
        shutil.rmtree(self.ground)

    # ------------------------------------------------------------------ the process

    def _before(self, operation: str, path: Path, index: int) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1

    @contextlib.contextmanager
    def _alive(self, dies: int | None = None) -> Iterator[None]:
        """Work of a process that is killed after so many operations, if it comes to them; nothing of it is left in memory."""
        self.left = dies
        self.worked += 1
        durable.operations = durable.Operations(before=self._before)
        try:
            yield
        except Killed:
            HAPPENED["killed in an operation"] += 1
            self._gone()
        finally:
            self.left = None
            durable.operations = durable.Operations()

    def _gone(self) -> None:
        self.store = self.writer = None
        if self.lock is not None:
            self.lock.__exit__(None, None, None)
            self.lock = None

    def _next(self) -> tuple[int, str] | None:
        return next((key for key in STAGES if key not in self.committed), None)

    @initialize()
    def start(self) -> None:
        self.root.mkdir()
        Store.create(self.root, CONFIG)

    @precondition(lambda self: self.store is None and not self.injured)
    @rule(dies=DIES)
    def resume(self, dies: int | None) -> None:
        lock = RunLock(self.root / "run.lock")
        lock.__enter__()
        self.lock = lock
        with self._alive(dies):
            store = Store.open(self.root)
            store.clean_work()
            self.attempt = store.begin_attempt({"config": {"seed": 0}, "pid": 1, "host": "here"})
            self.store, self.writer = store, None
            HAPPENED["resumed"] += 1

    @precondition(lambda self: self.store is not None)
    @rule()
    def kill(self) -> None:
        self._gone()

    @precondition(lambda self: self.store is not None)
    @rule()
    def end(self) -> None:
        with self._alive():
            assert self.store is not None
            self.store.end_attempt(self.attempt, "interrupted", "as asked")
            self._gone()

    # ------------------------------------------------------------------ work

    def _opened(self, key: tuple[int, str]) -> StageWriter:
        assert self.store is not None
        if self.writer is None or (self.writer.round, self.writer.stage) != key:
            reads = [STAGES[STAGES.index(key) - 1]] if key != STAGES[0] else []
            writer = self.store.writer(*key, self.fingerprint, reads)
            # an acknowledged shard is adopted
            assert {index for stage, index in self.shards if stage == key} <= writer.shards()
            self.writer = writer
        return self.writer

    @precondition(lambda self: self.store is not None and not self.injured and self._next())
    @rule(index=st.integers(0, SHARDS - 1), dies=DIES)
    def commit_shard(self, index: int, dies: int | None) -> None:
        key = self._next()
        assert key is not None
        with self._alive(dies):
            writer = self._opened(key)
            if index not in writer.shards():
                writer.write_shard(index, rows(key, index))
            self.shards.add((key, index))
            HAPPENED["shard"] += 1

    @precondition(lambda self: self.store is not None and not self.injured and self._next())
    @rule(dies=DIES)
    def commit_stage(self, dies: int | None) -> None:
        key = self._next()
        assert key is not None
        published = False
        with self._alive(dies):
            assert self.store is not None
            writer = self._opened(key)
            for index in set(range(SHARDS)) - writer.shards():
                writer.write_shard(index, rows(key, index))
                self.shards.add((key, index))
            if key[1] == "train":
                writer.discard("policy")
                writer.adopt_folder(self._policy(self.store.scratch(key[0])), "policy")
            writer.commit(self.attempt, CREATED, 0.5, outcome_of(key[1]))
            published = True
            if key[1] == "train":
                self.store.drop_scratch(key[0])
        if published or self._store().is_committed(*key):  # killed after the rename: it is committed all the same
            self._note(key)
            if self.store is not None:
                self.writer = None

    def _policy(self, scratch: Path) -> Path:
        folder = scratch / "output"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(64)))
        return folder

    def _store(self) -> Store:
        return Store.open(self.root)

    def _note(self, key: tuple[int, str]) -> None:
        folder = self._store().layout.stage(*key)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.committed[key] = (files, self._store().digest_of(*key))
        self.shards -= {(key, index) for index in range(SHARDS)}
        HAPPENED["stage"] += 1

    # ------------------------------------------------------------------ what is refused

    @precondition(lambda self: self.lock is not None)
    @rule()
    def second_driver(self) -> None:
        # a second descriptor of the same process is as foreign to flock as another process
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("selfplay.store.lock.time.sleep", lambda seconds: None)
            with pytest.raises(LockedError, match="in use by another driver"):
                RunLock(self.root / "run.lock").__enter__()
        HAPPENED["second driver"] += 1

    @precondition(lambda self: self.store is not None and not self.injured and self._next())
    @rule()
    def other_settings(self) -> None:
        """Another fingerprint (of another attempt) adopts no shard of this one, and what is committed stays."""
        key = self._next()
        assert key is not None and self.store is not None
        self.attempt = self.store.begin_attempt({"config": {"seed": 0}, "pid": 1, "host": "here"})
        self.fingerprint += "'"
        self.writer = None
        self.shards = {(stage, index) for stage, index in self.shards if stage != key}
        assert self._opened(key).adopted == 0
        HAPPENED["other settings"] += 1

    # ------------------------------------------------------------------ injuries

    def _victims(self) -> list[Path]:
        """Every file that a reader trusts: committed ones, shards that count with their marks, settings, attempts, RUN.json."""
        store = self._store()
        files = [store.layout.stage(*key) / name for key, (names, _) in self.committed.items() for name in names]
        # what only `.work/` needs stays in the folder of a stage, and means nothing there
        files = [path for path in files if not path.name.startswith((".part-", ".stage"))]
        for sidecar in store.layout.work.glob("[0-9]*-*/.part-*.json"):
            files += [sidecar, sidecar.with_name(f"part-{sidecar.stem.removeprefix('.part-')}.parquet")]
            files.append(sidecar.with_name(".stage.json"))
        files += [store.layout.config / name for name in CONFIG]
        files += store.layout.attempts.glob("*/*.json")
        return sorted({*files, store.layout.identity})

    def _may_be_injured(self) -> bool:
        return not self.injured and self.worked >= 4

    def _injure(self, paths: list[Path], healing: Callable[[], None]) -> None:
        HAPPENED[sys._getframe(1).f_code.co_name] += 1
        self._gone()
        self.injured, self.healing, self.worked = paths, healing, 0

    @precondition(lambda self: self._may_be_injured())
    @rule(data=st.data(), bit=st.integers(0, 7))
    def flip_a_bit(self, data: st.DataObject, bit: int) -> None:
        path = data.draw(st.sampled_from(self._victims()))
        before = path.read_bytes()
        place = data.draw(st.integers(0, len(before) - 1))
        self._injure([path], lambda: self._put(path, before))
        path.write_bytes(before[:place] + bytes([before[place] ^ (1 << bit)]) + before[place + 1 :])

    @precondition(lambda self: self._may_be_injured())
    @rule(data=st.data(), share=st.floats(0, 0.99))
    def truncate(self, data: st.DataObject, share: float) -> None:
        path = data.draw(st.sampled_from(self._victims()))
        before = path.read_bytes()
        self._injure([path], lambda: self._put(path, before))
        path.write_bytes(before[: int(share * len(before))])

    @precondition(lambda self: self._may_be_injured())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        # an attempt without its end is one that was killed, a shard without its sidecar one that a kill left: no injuries
        victims = [
            path for path in self._victims() if path.parent.parent.name != "attempts" and path.name[:6] != ".part-"
        ]
        path = data.draw(st.sampled_from([path for path in victims if path.name != "RUN.json"]))
        before = path.read_bytes()
        self._injure([path], lambda: self._put(path, before))
        path.unlink()

    @precondition(lambda self: self._may_be_injured())
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two files take each other's place, in one run the likeliest slip of a hand."""
        first = data.draw(st.sampled_from(self._victims()))
        others = [
            path for path in self._victims() if path.read_bytes() != first.read_bytes() and path.name != "RUN.json"
        ]
        second = data.draw(st.sampled_from(others))
        one, two = first.read_bytes(), second.read_bytes()

        def heal() -> None:
            self._put(first, one)
            self._put(second, two)

        self._injure([first, second], heal)
        first.write_bytes(two)
        second.write_bytes(one)

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    @precondition(lambda self: self.injured)
    @rule()
    def an_injury_is_named_and_nothing_is_made_from_it(self) -> None:
        named = problems(self.root)
        # a shard and its sidecar are one: which of the two was hurt cannot always be told
        names = {str(path) for path in self.injured} | {
            str(path.with_name(path.name.removeprefix(".").replace(".json", ".parquet")))
            for path in self.injured
            if path.name.startswith(".part-")
        }
        assert any(name in line for name in names for line in named), (self.injured, named)
        for key in self.committed:
            folder = self.root / f"rounds/{key[0]:03d}" / key[1]
            if any(folder in path.parents for path in self.injured):
                with pytest.raises(CorruptionError):
                    self._store().writer(9, "sample", "later", [key])
                HAPPENED["refused as an input"] += 1
        assert self.healing is not None
        self.healing()
        self.injured, self.healing = [], None
        assert problems(self.root) == []

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def what_is_committed_stays(self) -> None:
        if self.injured:
            return
        before = None
        for key, (files, digest) in self.committed.items():
            store = self._store()
            folder = store.layout.stage(*key)
            now = {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
            assert now == files
            store.require(*key)
            inputs = {} if before is None else {f"{before[0]:03d}/{before[1]}": self.committed[before][1]}
            assert (store.commit_of(*key).inputs, store.digest_of(*key)) == (inputs, digest)
            before = key

    @invariant()
    def a_crash_is_no_injury(self) -> None:
        if not self.injured and self.root.exists():
            assert problems(self.root) == []


def problems(root: Path) -> list[str]:
    """What `verify --deep` says, less what it says of the rows (these tables are not a run's). A run that cannot be opened at
    all says so."""
    from selfplay.inspect.verify import verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "check_rows", lambda store, sound: [])
        try:
            return [
                f"{problem['file']} {problem['message']}" for problem in verify_document(root, deep=True)["problems"]
            ]
        except ConfigError as error:
            return [f"{root / 'RUN.json'} {error.message}"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("_quick")
def test_a_run_through_anything() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=80,
            stateful_step_count=35,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure tells its steps; to make them fewer would take minutes
        ),
    )
    few = {what: HAPPENED[what] for what in LEAST if HAPPENED[what] < LEAST[what]}
    assert not few, f"hardly ever happened: {few}"
