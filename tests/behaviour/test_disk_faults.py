"""A disk that fails: every operation of the store in a run, each with the errors that a full, broken or closed disk gives.

The real driver on fakes. An attempt runs until an operation that has not failed yet, which then fails (with all that follow it
in every second case, as on a disk that stays full); the next attempt goes on from there. In the end every operation has failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import BackendError, ResourceError, SelfplayError
from selfplay.execution.progress import Reporter
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import disk_estimate as room
from selfplay.run import driver
from selfplay.store import durable
from selfplay.store.lock import RunLock, read_holder
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.stages import every_stage

WriteConfig = Callable[..., Path]
CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
# What a read-only folder or a full disk does not refuse
REMOVALS = ("unlink", "rmdir")


@pytest.fixture
def prepared(write_config: WriteConfig, tmp_path: Path) -> driver.Prepared:
    """One round, two shards a stage, an evaluation: prepared once."""
    config = write_config(
        rounds=1,
        prompts={"per_round": 4},
        sampling={"shard_size": 2, "num_responses": 3},
        evaluation={"num_prompts": 3},
        # a page that cannot be written is reported and ends nothing (tests/inspect/report)
        report={"every": 0},
    )
    return driver.preflight(load_config(config), config.parent, tmp_path / "run")


def attempt(prepared: driver.Prepared, fakes: Fakes, run: Path, people: io.StringIO | None = None) -> None:
    """Start the run or go on with it."""
    prepared = dataclasses.replace(prepared, run_dir=run)
    reporter = Reporter(people, quiet=people is None)
    if (run / "RUN.json").is_file():
        store = Store.open(run)
        driver.resume(store, prepared, prepared.config, prepared.inputs.pins, reporter, workers=fakes)
    else:
        driver.run(prepared, "", [], reporter, 25.0, fakes)


def tables(run: Path) -> dict[str, pa.Table]:
    return {
        path.relative_to(run).as_posix(): pa.parquet.read_table(path, partitioning=None)
        for path in sorted((run / "rounds").rglob("part-*.parquet"))
    }


def kept(run: Path) -> dict[str, tuple[int, int, int]]:
    """Committed files and the shards in `.work/` that count, each with what would show that it was written again. A file has one
    name before and after its stage is published."""
    found = {
        re.sub(r"^(\d+)/", r"\1-", path.relative_to(run / "rounds").as_posix()): path
        for path in (run / "rounds").rglob("*")
        if path.is_file()
    }
    for sidecar in (run / ".work").glob("[0-9]*/**/.part-*.json"):
        for path in (sidecar, sidecar.with_name(f"part-{sidecar.stem.removeprefix('.part-')}.parquet")):
            found[path.relative_to(run / ".work").as_posix()] = path
    status = {name: path.stat() for name, path in found.items()}
    return {name: (found.st_ino, found.st_size, found.st_mtime_ns) for name, found in status.items()}


def place(path: Path) -> str:
    """What a file is called, without the number of the attempt and without the random part of a temporary name: each of these
    would make an operation a new one in every attempt."""
    return re.sub(r"(\.tmp-[^/]*)-[0-9a-f]{8}\b", r"\1", re.sub(r"attempts/\d+", "attempts/N", path.as_posix()))


class FailingDisk(durable.Operations):
    """Fails the first operation that is not in `failed` (by kind and path), and adds it."""

    def __init__(self, root: Path, failed: set[tuple[str, str]], code: int, *, for_good: bool) -> None:
        super().__init__(before=self._fail)
        self.root, self.failed, self.code, self.for_good = root, failed, code, for_good
        self.hit: tuple[str, Path] | None = None

    def _fail(self, operation: str, path: Path, index: int) -> None:
        if self.hit is None:
            key = (operation, place(path.relative_to(self.root)))
            if key in self.failed:
                return
            self.failed.add(key)
            self.hit = (operation, path)
        elif not self.for_good or operation in REMOVALS:
            return
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.timeout(1200)
def test_every_operation_of_a_run_may_fail(
    prepared: driver.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(prepared, Fakes(gold=False), tmp_path / "undisturbed")

    run, fakes = tmp_path / "run", Fakes(gold=False)
    failed: set[tuple[str, str]] = set()
    kinds: Counter[str] = Counter()
    before: dict[str, Any] = {}
    while True:
        kind = sum(kinds.values())
        code = CODES[(kind // 5) % len(CODES)]
        disk = FailingDisk(tmp_path, failed, code, for_good=bool(kind % 2))
        monkeypatch.setattr(durable, "operations", disk)
        try:
            attempt(prepared, fakes, run)
        except SelfplayError as error:
            assert disk.hit is not None, error
            operation, path = disk.hit
            kinds[operation] += 1
            assert error.exit_code == 1
            check_message(error, code, path)
        else:
            assert disk.hit is None, f"{disk.hit} failed and nobody said so"
            break
        after = kept(run)
        lost = {name for name in before if before[name] != after.get(name)}
        assert not lost, f"{lost} were lost when {disk.hit} failed"
        before = after
    assert tables(run).keys() == tables(tmp_path / "undisturbed").keys()
    for name, table in tables(tmp_path / "undisturbed").items():
        assert tables(run)[name].equals(table), name
    assert verify_document(run, deep=True)["problems"] == []
    assert set(kinds) == {"create", "write", "fsync", "rename", "mkdir", "fsync_folder", "unlink", "rmdir"}
    assert sum(kinds.values()) > 400, "docs/reliability.md says how many there are"


def check_message(error: SelfplayError, code: int, path: Path) -> None:
    """The file (or the folder whose names were to be made durable), why, how much is needed and free, and what to do."""
    assert str(path.parent) in error.message or str(path) in error.message, (error.message, path)
    assert os.strerror(code) in error.message
    assert re.search(r"; \d+ MB are free there", error.message)
    assert "Committed work is safe" in error.hint
    assert {
        errno.ENOSPC: "Make room on the disk", errno.EDQUOT: "Make room on your quota", errno.EIO: "The disk failed",
        errno.EROFS: "writable", errno.EACCES: "writable",
    }[code] in error.hint  # fmt: skip
    assert "resume" in error.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/model.safetensors"),
        BackendError("SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"),
        BackendError("OSError: [Errno 122] Disk quota exceeded: 'optimizer.pt'"),
    ],
)
def test_a_trainer_that_finds_no_room(prepared: driver.Prepared, tmp_path: Path, error: Exception) -> None:
    run, fakes = tmp_path / "run", Fakes(gold=False)
    real = fakes.trainer.train

    def full(job: Any, progress: Any) -> Any:
        raise error

    fakes.trainer.train = full  # type: ignore[method-assign]
    with pytest.raises(SelfplayError, match=r"could not write into .*001-trainer: .*; \d+ MB are free there") as failed:
        attempt(prepared, fakes, run)
    assert "Make room on" in failed.value.hint
    fakes.trainer.train = real  # type: ignore[method-assign]
    attempt(prepared, fakes, run)
    assert all(Store.open(run).is_committed(number, name) for number, name in every_stage(1))


def test_another_failure_of_a_trainer_is_not_taken_for_the_disk(prepared: driver.Prepared, tmp_path: Path) -> None:
    fakes = Fakes(gold=False)

    def fail(job: Any, progress: Any) -> Any:
        raise BackendError("RuntimeError: shapes do not match")

    fakes.trainer.train = fail  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="shapes do not match"):
        attempt(prepared, fakes, tmp_path / "run")


class FullFile(io.RawIOBase):
    """A log on a full disk."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["_log", "_events"])
def test_no_run_stops_for_want_of_its_log(
    prepared: driver.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, people = Reporter.open_log, io.StringIO()

    def open_log(self: Reporter, log: Path, events: Path) -> None:
        real(self, log, events)
        setattr(self, name, FullFile())

    monkeypatch.setattr(Reporter, "open_log", open_log)
    monkeypatch.setattr(Reporter, "speaking_to", lambda self, stream: contextlib.nullcontext())
    attempt(prepared, Fakes(gold=False), tmp_path / "run", people)
    assert all(Store.open(tmp_path / "run").is_committed(number, stage) for number, stage in every_stage(1))
    lines = [line for line in people.getvalue().splitlines() if "missing in the attempt's log" in line]
    assert lines == ["lines are missing in the attempt's log (No space left on device); the run continues"]


@pytest.mark.parametrize("name", ["log.txt", "events.jsonl", "libraries.log"])
def test_a_log_that_cannot_be_made_is_said(
    prepared: driver.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = tmp_path / "run"

    def begin(self: Store, document: dict[str, Any]) -> int:
        number = real(self, document)
        (self.layout.attempt(number) / name).mkdir()  # nobody can open it as a file
        return number

    real = Store.begin_attempt
    monkeypatch.setattr(Store, "begin_attempt", begin)
    with pytest.raises(SelfplayError, match=rf"could not write .*0001/{name}: Is a directory") as failed:
        attempt(prepared, Fakes(gold=False), run)
    assert failed.value.exit_code == 1
    assert Store.open(run).attempt_documents()[-1]["end"]["outcome"] == "failed"
    monkeypatch.undo()
    attempt(prepared, Fakes(gold=False), run)
    assert Store.open(run).is_committed(1, "evaluate")


def test_a_lock_is_held_on_a_full_disk_and_refused_in_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with RunLock(tmp_path / "run.lock"):
            assert read_holder(tmp_path / "run.lock") is None
    with pytest.raises(SelfplayError, match=r"could not write .*run\.lock: there is no folder"):
        RunLock(tmp_path / "run.lock/run.lock").__enter__()


# ---------------------------------------------------------------------- room


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """How much is free, as the check before a stage sees it."""
    usage = SimpleNamespace(free=10**12)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)
    return usage


def test_a_stage_that_will_not_fit_is_refused_before_it_begins(
    prepared: driver.Prepared, tmp_path: Path, disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fakes = tmp_path / "run", Fakes(gold=False)
    need = 4 * 3 * (6 * 8 + 500)  # responses of round 1, by plan
    disk.free = need - 1
    monkeypatch.setattr(
        room, "stage_bytes", lambda config, inputs, dtype, number, stage: need if stage == "sample" else 0
    )
    with pytest.raises(ResourceError, match=r"round 1 sample will write about 7 KB; 7 KB are free at ") as refused:
        attempt(prepared, fakes, run)
    assert "storage.check_free_space=false" in refused.value.hint
    assert "storage.check_free_space=false" in refused.value.hint
    assert not fakes.sampler.requests or Store.open(run).is_committed(0, "evaluate")
    assert not (run / ".work/001-sample").exists()
    disk.free = need
    attempt(prepared, fakes, run)
    assert Store.open(run).is_committed(1, "evaluate")


def test_the_check_can_be_switched_off(prepared: driver.Prepared, tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.free = 0
    storage = prepared.config.storage.model_copy(update={"check_free_space": False})
    off = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"storage": storage}))
    with pytest.raises(ResourceError, match="round 0 prompts will write about"):
        attempt(prepared, Fakes(gold=False), tmp_path / "run")
    attempt(off, Fakes(gold=False), tmp_path / "run")
    assert Store.open(tmp_path / "run").is_committed(1, "evaluate")


def test_what_a_stage_needs_and_what_of_it_is_there_already(
    prepared: driver.Prepared, tmp_path: Path, disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, needs = tmp_path / "run", {}
    real = room.stage_bytes

    def noting(config: Any, inputs: Any, dtype: str, number: int, stage: str) -> int:
        needs[number, stage] = real(config, inputs, dtype, number, stage)
        return needs[number, stage]

    monkeypatch.setattr(room, "stage_bytes", noting)
    attempt(prepared, Fakes(gold=False), run)
    assert needs.keys() == {(number, stage) for number, stage in every_stage(1)}
    response = 6 * 8 + 500
    assert needs[1, "sample"] == 4 * 3 * response
    assert needs[1, "evaluate"] == needs[0, "evaluate"] == 3 * (2 + 1) * response
    assert needs[1, "score"] == needs[1, "pair"] == needs[1, "logprobs"] == 4 * 3 * 500
    assert 4 * (500 + 30) < needs[1, "prompts"] < 4 * (500 + 200)
    assert needs[1, "select"] == needs[1, "prompts"] + 4 * 2 * response
    assert needs[1, "train"] == 4 * prepared.inputs.policy_info.num_params

    need = needs[1, "evaluate"]
    shutil.rmtree(run / "rounds/001/evaluate")
    (run / ".work/001-evaluate").mkdir()
    disk.free = need - 100
    for kept, fits in ((99, False), (100, True)):
        (run / ".work/001-evaluate/stray").write_bytes(bytes(kept))
        with contextlib.nullcontext() if fits else pytest.raises(ResourceError, match="round 1 evaluate will write"):
            attempt(prepared, Fakes(gold=False), run)
    assert Store.open(run).is_committed(1, "evaluate")
