"""A comparison from its command line to its files: settings, runs, results. One process at a time in a folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfplay.compare.arm_inputs import ArmInputs
from selfplay.compare.report import write_results
from selfplay.compare.results import results_document
from selfplay.compare.running import Runner, arm_runs, unfinished
from selfplay.compare.settings import Comparison, Wanted, make_comparison, read_comparison, write_comparison
from selfplay.compare.worker_reuse import WarmWorkers
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError, Interrupted
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag, signals
from selfplay.inputs.user_code.listing import Code
from selfplay.run.code_trust import announce, note_code, require_trust
from selfplay.run.worker_specs import MakeWorkers
from selfplay.store.durable import make_folder
from selfplay.store.layout import COMPARISON
from selfplay.store.lock import RunLock
from selfplay.store.symlinks import forbid_symlinks

LOCK = "compare.lock"


def compare(
    wanted: Wanted,
    out: Path,
    *,
    retry_failed: bool = False,
    dry_run: bool = False,
    force: bool = False,
    trust_code: bool = False,
    grace: float = 25.0,
    workers: MakeWorkers | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Start a comparison, continue it or add to it, and return its results (see `results_document`; on a dry run its
    settings). `force` continues where a data-quality check or an estimate of memory or disk would stop a run; `trust_code` runs
    the code of a comparison that you have not begun on this machine. Where all runs are over, the results are shown and no code
    is loaded. `workers` replaces the warm Ray workers (tests). Raises Interrupted when stopped: the same call continues it."""
    out = out.absolute()
    for path in (*out.glob("*"), *out.glob("*/*")):  # blocks and their runs; a run looks after its own
        forbid_symlinks(path, out)
    if out.exists() and not (out / COMPARISON).is_file() and any(path.name != LOCK for path in out.iterdir()):
        raise ConfigError(f"{out} exists and is not a comparison", "Choose another --out.")
    before, inputs = read_comparison(out), ArmInputs(out, force=force)
    planned = make_comparison(wanted, before, out)
    todo = unfinished(planned, out, retry_failed=retry_failed)
    if dry_run:
        reporter = reporter or Reporter()
        if todo:
            _prepare(inputs, planned, before, out, reporter, trust_code=trust_code)
        _say_plan(planned, out, len(todo), reporter)
        return planned.document()
    stop = StopFlag()
    with _real_stderr() as people, contextlib.ExitStack() as stack:
        reporter = reporter or Reporter(people)
        made = workers or stack.enter_context(WarmWorkers(out / "workers" / str(os.getpid())))
        run_code = _prepare(inputs, planned, before, out, reporter, trust_code=trust_code) if todo else []
        make_folder(out)
        with RunLock(out / LOCK):  # only while it is written: two processes may share the blocks of one comparison
            comparison = make_comparison(wanted, read_comparison(out), out)
            write_comparison(out, comparison)
        _say_plan(planned, out, len(todo), reporter)
        if todo:  # what is only shown is not noted as begun: its code was not looked at
            note_code(_name(out), run_code, reporter.say, trust_code=trust_code or before is None)
            runner = Runner(
                comparison=comparison, out=out, inputs=inputs, reporter=reporter, workers=made, stop=stop,
                retry_failed=retry_failed, force=force, trust_code=trust_code,
            )  # fmt: skip
            try:
                with signals(stop, grace, reporter):
                    runner.run()
            except KeyboardInterrupt:
                code = stop.exit_code or 130
                raise Interrupted("stopped at once; committed work is kept", _again(out), code) from None
            except Interrupted as stopped:
                stopped.hint = _again(out)
                raise
    document = results_document(comparison, out)
    write_results(document, out)
    return document


def _prepare(
    inputs: ArmInputs,
    comparison: Comparison,
    before: Comparison | None,
    out: Path,
    reporter: Reporter,
    *,
    trust_code: bool,
) -> list[Code]:
    """Say all code that will run, ask about that of a comparison which this user has not begun, then load and check what the
    runs need. Returns the code."""
    code = inputs.code(comparison)
    if before is not None:
        command = ["compare", "--out", out]
        require_trust(_name(out), out, inputs.code(before), command, trust_code=trust_code)
    announce(code, reporter.say)
    inputs.prepare_all(comparison)
    return code


def _name(out: Path) -> str:
    """What the note of comparisons that this user has begun calls one. (It has no id; its runs have.)"""
    return f"compare {out.resolve()}"


def _again(out: Path) -> str:
    return f"`{shell_command('compare', '--out', out)}` continues it."


def _say_plan(comparison: Comparison, out: Path, num_todo: int, reporter: Reporter) -> None:
    num_runs = len(arm_runs(comparison, out))
    for world in comparison.worlds:
        steps = f"{comparison.steps(world)} optimizer steps a round in every arm" if "steps" in comparison.equal else ""
        reporter.say(f"{world.name}: {world.path}" + (f"; {steps}" if steps else ""))
    reporter.say(
        f"{len(comparison.arms)} arms ({', '.join(arm.name for arm in comparison.arms)}), control {comparison.control}, "
        f"{comparison.num_seeds} seeds, {comparison.rounds} rounds, equal {' and '.join(comparison.equal)}: "
        f"{num_runs} runs in {out}, {num_runs - num_todo} of them over before"
    )


@contextlib.contextmanager
def _real_stderr() -> Iterator[Any]:
    """A stream that stays on the terminal while a run sends the process's own stderr to its log."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace") as people:
        yield people
