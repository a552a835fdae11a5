"""Running a comparison: block by block, the pools first, then every arm, each an ordinary run under OUT/runs/BLOCK/.

Committed work is not repeated: a finished run is skipped, and one that was stopped or killed is continued. If the training of an
arm fails (diverges, keeps no pair), its run is recorded as failed, and the others continue. Any other error ends the comparison,
which the same command continues.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from selfplay.api import standard_observers
from selfplay.compare.arm_inputs import ArmInputs, check_pins
from selfplay.compare.arms import Arm
from selfplay.compare.settings import Block, Comparison
from selfplay.compare.shared_pool import LAST, SHARED_BY_ALL, SHARED_BY_LIKE, pool_key, pool_name
from selfplay.config.load import validate
from selfplay.config.running import ReportConfig
from selfplay.config.schema import Config
from selfplay.core.errors import (
    BackendError,
    EmptyRoundsError,
    GateError,
    LockedError,
)
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.run import driver
from selfplay.run.allowed_changes import check_drift
from selfplay.run.code_trust import check_policy_code, note_code, require_trust
from selfplay.run.worker_specs import MakeWorkers
from selfplay.store.durable import make_folder
from selfplay.store.fork import Fork
from selfplay.store.layout import POOL, is_run
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, next_stage

# what ends an arm and not the comparison
OF_THE_ARM = (BackendError, EmptyRoundsError, GateError)
BLOCK_LOCK = "block.lock"


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One run of a comparison: an arm in a block under a budget ("steps" or "epochs")."""

    block: Block
    arm: Arm
    equal: str
    folder: Path


def arm_runs(comparison: Comparison, out: Path) -> list[ArmRun]:
    """Every run of a comparison, in the order in which they are made."""
    return [
        ArmRun(block, arm, equal, block.run_folder(out, arm, equal))
        for block in comparison.blocks()
        for equal in comparison.equal
        for arm in comparison.arms
    ]


def unfinished(comparison: Comparison, out: Path, *, retry_failed: bool) -> list[ArmRun]:
    """The runs that are still to be made or continued. A failed run is over, unless it is to be tried again."""
    return [run for run in arm_runs(comparison, out) if not _is_done(run, comparison.rounds, retry_failed=retry_failed)]


def _is_done(run: ArmRun, rounds: int, *, retry_failed: bool) -> bool:
    if not is_run(run.folder):
        return False
    store = Store.open(run.folder)
    return next_stage(store, rounds) is None or (failure(store) is not None and not retry_failed)


def failure(store: Store) -> str | None:
    """Why a run's last attempt failed; None where it did not."""
    found = store.attempt_documents()
    end = found[-1]["end"] if found else None
    return str(end["message"]) if end is not None and end["outcome"] == "failed" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Makes the runs."""

    comparison: Comparison
    out: Path
    inputs: ArmInputs
    reporter: Reporter
    workers: MakeWorkers
    stop: StopFlag
    retry_failed: bool
    force: bool
    trust_code: bool

    def run(self) -> None:
        """Make everything that is not there yet. A block that another process works on is left to it. Raises Interrupted when
        asked to stop."""
        todo = unfinished(self.comparison, self.out, retry_failed=self.retry_failed)
        started, number, elsewhere = time.monotonic(), 0, 0
        for block, runs in itertools.groupby(todo, key=lambda run: run.block):
            mine = list(runs)
            folder = block.folder(self.out)
            make_folder(folder)
            try:
                lock = contextlib.ExitStack()
                lock.enter_context(RunLock(folder / BLOCK_LOCK))
            except LockedError:
                self.reporter.say(f"{block.name}: left to the process that works on it")
                elsewhere += len(mine)
                continue
            with lock:
                for run in mine:
                    self.stop.check()
                    # another process may have made it since
                    if _is_done(run, self.comparison.rounds, retry_failed=self.retry_failed):
                        elsewhere += 1
                        continue
                    outcome = self._arm(run)
                    number += 1
                    per_run = (time.monotonic() - started) / number
                    left = per_run * (len(todo) - number - elsewhere)
                    self.reporter.say(
                        f"[{number}/{len(todo) - elsewhere}] {run.block.name} {run.arm.name} (equal {run.equal}): {outcome}; "
                        f"{per_run:.1f} s a run, {left / 60:.0f} min left"
                    )

    def _arm(self, run: ArmRun) -> str:
        """Make one run, pools first; returns how it ended."""
        config = self.comparison.config(run.block, run.arm, run.equal)
        pool = self._pool(run.block, config)
        overrides = [f"seed={run.block.seed}", f"rounds={self.comparison.rounds}", *run.block.world.overrides]
        overrides += list(run.arm.overrides)
        try:
            self._make(run.block, run.folder, config, overrides, pool.fork_to(run.folder, SHARED_BY_LIKE), None)
        except OF_THE_ARM as error:
            return f"failed: {error.message}"
        return "done"

    def _pool(self, block: Block, config: Config) -> Store:
        """The pool run that an arm of this configuration is forked from, made where it is not there."""
        base = validate(self.comparison.base(block), block.world.path)
        folder = block.folder(self.out)
        overrides = [f"seed={block.seed}", *block.world.overrides]
        shared = folder / POOL
        self._make(block, shared, base.model_copy(update={"rounds": 1}), overrides, None, LAST)
        search_path = Path(block.world.search_path)
        found = [self.inputs.resolve(each, search_path, None) for each in (config, base)]
        check_pins(Store.open(shared), found[1].pins)
        own = folder / pool_name(pool_key(config, found[0]), pool_key(base, found[1]))
        if own != shared:
            fork = Store.open(shared).fork_to(own, SHARED_BY_ALL)
            self._make(block, own, config.model_copy(update={"rounds": 1}), overrides, fork, LAST)
        return Store.open(own)

    def _make(
        self,
        block: Block,
        folder: Path,
        config: Config,
        overrides: list[str],
        fork: Fork | None,
        until: tuple[int, str] | None,
    ) -> None:
        """Start a run, or go on with it; nothing where it is done."""
        search_path = Path(block.world.search_path)
        # a comparison has a report of its own; `selfplay report` writes that of any of its runs
        config = config.model_copy(update={"report": ReportConfig(every=0)})
        reporter = Reporter(quiet=True)
        if not is_run(folder):
            prepared = self.inputs.prepare(config, search_path, folder, None)
            driver.run(
                prepared, block.world.given, overrides, reporter, workers=self.workers,
                observers=standard_observers, forked_from=fork,
                stop=self.stop, until=until, force=self.force,
            )  # fmt: skip
            return
        store = Store.open(folder)
        before = validate(config_in_force(store), f"{folder}/config")
        if until is not None:
            if store.is_committed(*until):
                return
            # an arm's settings made it: another arm of the same pool may be the one that asks now
            config = before
        pins, revisions = store.config_json("pins.json", dict), store.revisions()
        pinned = self.inputs.pin(config, search_path, revisions)
        check_drift(store, before, config, pins, pinned.pins)
        check_policy_code(store, pinned)
        command = ["compare", "--out", self.out]
        require_trust(store.run_id, folder, pinned.code, command, trust_code=self.trust_code)
        note_code(store.run_id, pinned.code, reporter.say, trust_code=self.trust_code)
        prepared = self.inputs.prepare(config, search_path, folder, store)
        driver.resume(
            store,
            prepared,
            before,
            pins,
            reporter,
            workers=self.workers,
            stop=self.stop,
            until=until,
            observers=standard_observers,
            force=self.force,
        )
