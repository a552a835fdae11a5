"""Running a comparison: block by block, the pools first, then every arm, each an ordinary run under OUT/runs/BLOCK/.

What is committed is not done again: a finished run is passed over, one that was stopped or killed goes on. An arm whose training
fails (diverges, keeps no pair) is recorded as failed by its own run, and the others go on; anything else ends the comparison,
to be started again.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfplay.api import standard_observers
from selfplay.compare.arms import Arm
from selfplay.compare.settings import Block, Comparison
from selfplay.compare.shared_pool import LAST, SHARED_BY_ALL, SHARED_BY_LIKE, fork_of, pool_key, pool_name
from selfplay.config.load import validate
from selfplay.config.running import ReportConfig
from selfplay.config.schema import Config
from selfplay.core.errors import (
    BackendError,
    ConfigError,
    DriftError,
    EmptyRoundsError,
    GateError,
    LockedError,
    ModelError,
)
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.inputs.resolve import Inputs, resolve
from selfplay.run import driver
from selfplay.run.pass_through_check import find_problems
from selfplay.run.plan import make_plan
from selfplay.store.durable import canonical_json, make_folder
from selfplay.store.fork import Fork
from selfplay.store.layout import POOL
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
        ArmRun(block, arm, equal, run_folder(out, block, arm, equal))
        for block in comparison.blocks()
        for equal in comparison.equal
        for arm in comparison.arms
    ]


def block_folder(out: Path, block: Block) -> Path:
    """Where the runs of a block are."""
    return out / "runs" / block.name


def run_folder(out: Path, block: Block, arm: Arm, equal: str) -> Path:
    """Where an arm's run is: OUT/runs/BLOCK/ARM, with @epochs behind it for the runs of equal epochs."""
    return block_folder(out, block) / (arm.folder + ("@epochs" if equal == "epochs" else ""))


def has_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / "RUN.json").is_file()


def failure(store: Store) -> str | None:
    """Why a run's last attempt failed; None where it did not."""
    found = store.attempt_documents()
    end = found[-1]["end"] if found else None
    return str(end["message"]) if end is not None and end["outcome"] == "failed" else None


class Runner:
    """Makes the runs. Inputs are resolved and pinned once for all runs that read the same ones."""

    def __init__(
        self,
        comparison: Comparison,
        out: Path,
        reporter: Reporter,
        workers: driver.MakeWorkers,
        stop: StopFlag,
        *,
        retry_failed: bool = False,
        make_reporter: Callable[[], Reporter] = lambda: Reporter(quiet=True),
    ) -> None:
        self.comparison = comparison
        self._out = out
        self._reporter = reporter
        self._workers = workers
        self._stop = stop
        self._retry_failed = retry_failed
        self._make_reporter = make_reporter
        self._inputs: dict[bytes, Inputs] = {}
        self._keys: set[bytes] = set()

    def run(self) -> None:
        """Make everything that is not there yet. A block that another process works on is left to it. Raises Interrupted when
        asked to stop."""
        wanted = arm_runs(self.comparison, self._out)
        todo = [run for run in wanted if not self._is_done(run)]
        self._reporter.say(f"{len(wanted)} runs, {len(wanted) - len(todo)} of them over before")
        started, number, elsewhere = time.monotonic(), 0, 0
        for block, runs in itertools.groupby(todo, key=lambda run: run.block):
            mine = list(runs)
            folder = block_folder(self._out, block)
            make_folder(folder)
            try:
                lock = contextlib.ExitStack()
                lock.enter_context(RunLock(folder / BLOCK_LOCK))
            except LockedError:
                self._reporter.say(f"{block.name}: left to the process that works on it")
                elsewhere += len(mine)
                continue
            with lock:
                for run in mine:
                    self._stop.check()
                    if self._is_done(run):  # by another process, since
                        elsewhere += 1
                        continue
                    outcome = self._arm(run)
                    number += 1
                    per_run = (time.monotonic() - started) / number
                    left = per_run * (len(todo) - number - elsewhere)
                    self._reporter.say(
                        f"[{number}/{len(todo) - elsewhere}] {run.block.name} {run.arm.name} (equal {run.equal}): {outcome}; "
                        f"{per_run:.1f} s a run, {left / 60:.0f} min left"
                    )

    def _is_done(self, run: ArmRun) -> bool:
        if not has_run(run.folder):
            return False
        store = Store.open(run.folder)
        if next_stage(store, self.comparison.rounds) is None:
            return True
        return failure(store) is not None and not self._retry_failed

    def _arm(self, run: ArmRun) -> str:
        """Make one run, pools first; returns how it ended."""
        config = self.comparison.config(run.block, run.arm, run.equal)
        pool = self._pool(run.block, config)
        overrides = [f"seed={run.block.seed}", f"rounds={self.comparison.rounds}", *run.block.world.overrides]
        overrides += list(run.arm.overrides)
        try:
            self._make(run.block, run.folder, config, overrides, fork_of(pool, run.folder, SHARED_BY_LIKE), None)
        except OF_THE_ARM as error:
            return f"failed: {error.message}"
        return "done"

    def _pool(self, block: Block, config: Config) -> Store:
        """The pool run that an arm of this configuration is forked from, made where it is not there."""
        base = validate(self.comparison.base(block), block.world.path)
        folder = block_folder(self._out, block)
        overrides = [f"seed={block.seed}", *block.world.overrides]
        shared = folder / POOL
        self._make(block, shared, base.model_copy(update={"rounds": 1}), overrides, None, LAST)
        search_path = Path(block.world.search_path)
        found = [self._resolve(each, search_path, None) for each in (config, base)]
        check_pins(Store.open(shared), found[1].pins)
        own = folder / pool_name(pool_key(config, found[0]), pool_key(base, found[1]))
        if own != shared:
            fork = fork_of(Store.open(shared), own, SHARED_BY_ALL)
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
        reporter = self._make_reporter()
        if not has_run(folder):
            prepared = self._prepare(config, search_path, folder, None)
            driver.run(
                prepared, block.world.given, overrides, reporter, workers=self._workers,
                observers=standard_observers, forked_from=fork,
                stop=self._stop, until=until,
            )  # fmt: skip
            return
        store = Store.open(folder)
        before = validate(config_in_force(store), f"{folder}/config")
        if until is not None:
            if store.is_committed(*until):
                return
            # an arm's settings made it: another arm of the same pool may be the one that asks now
            config = before
        prepared = self._prepare(config, search_path, folder, store)
        pins = store.config_json("pins.json", dict)
        driver.resume(
            store,
            prepared,
            before,
            pins,
            reporter,
            workers=self._workers,
            stop=self._stop,
            until=until,
            observers=standard_observers,
        )

    def _prepare(self, config: Config, search_path: Path, folder: Path, store: Store | None) -> driver.Prepared:
        """As driver.preflight, with inputs shared by all runs that read the same ones."""
        revisions = store.revisions() if store else None
        inputs = self._resolve(config, search_path, revisions)
        passed = canonical_json([dict(config.sampling.engine), config.training.loss, dict(config.training.trl)])
        if passed not in self._keys:
            problems = find_problems(dict(config.sampling.engine), config.training.loss, dict(config.training.trl))
            if problems:
                raise ConfigError("; ".join(problems), "These keys go to vLLM and TRL as they are.")
            self._keys.add(passed)
        done = (
            [number for number in store.rounds() if number and store.is_committed(number, "evaluate")] if store else []
        )
        plan = make_plan(config, inputs, folder, rounds_done=len(done))
        return driver.Prepared(config, inputs, plan, folder, search_path)

    def _resolve(self, config: Config, search_path: Path, revisions: dict[str, str] | None) -> Inputs:
        key = canonical_json([inputs_key(config), str(search_path), revisions or {}])
        if key not in self._inputs:
            self._inputs[key] = resolve(config, search_path, revisions)
        return self._inputs[key]

    def prepare_all(self) -> None:
        """Resolve and check what every world's arms need before anything is started. Raises ConfigError, ModelError, ..."""
        for world in self.comparison.worlds:
            for equal in self.comparison.equal:
                for arm in self.comparison.arms:
                    config = self.comparison.config(Block(world, 0), arm, equal)
                    try:
                        self._prepare(config, Path(world.search_path), self._out, None)
                    except (ConfigError, ModelError) as error:
                        error.message = f"{world.path}, arm {arm.name!r}: {error.message}"
                        raise


def check_pins(pool: Store, pins: dict[str, str]) -> None:
    """Raises DriftError where a block's models, prompts or functions are no longer those that its pool was made with."""
    before = pool.config_json("pins.json", dict)
    changed = [name for name in sorted({*before, *pins}) if before.get(name) != pins.get(name)]
    if changed:
        raise DriftError(
            f"{pool.layout.root} was made with other content of {', '.join(changed)}",
            "Restore it, or give another --out: a comparison has one start.",
        )


def inputs_key(config: Config) -> object:
    """The settings that decide what `inputs.resolve` finds and checks: seed, rounds and numbers of training and selection do
    not."""
    document = config.model_dump(mode="json")
    for name in ("pairs", "cluster", "seed", "rounds"):
        document.pop(name)
    for name in ("weight", "keep"):
        document["selection"].pop(name)
    document["training"] = [getattr(config.training, name) for name in ("max_length", "loss", "start", "reference")]
    return document
