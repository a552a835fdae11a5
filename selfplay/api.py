"""Start, resume and fork runs: the functions that the commands, `compare` and Python programs call.

`import selfplay` names the functions of this module that users need. This is also the one place that says which observers a run
has. What is needed at the end of a run is imported there: the first sample waits for what is imported here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.config.load import absolute_places, apply_override, load_config, validate
from selfplay.config.schema import Config
from selfplay.config.strict_yaml import dump
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.core.observer import Observer
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.inspect.reading import run_root
from selfplay.inspect.trace import Trace, require_new_file
from selfplay.inspect.tracking.trackers import check_installed
from selfplay.run import driver
from selfplay.run.allowed_changes import check_drift, last_whole_round
from selfplay.run.code_trust import check_policy_code, note_code, require_trust
from selfplay.run.driver import Prepared
from selfplay.run.find_again import find_again
from selfplay.run.fork import Forking, prepare_fork
from selfplay.run.observers import MakeObservers, Observed, Retention
from selfplay.run.worker_specs import MakeWorkers
from selfplay.store.new_folder import require_empty_dir
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection, search_path_in_force
from selfplay.store.writable import require_writable

if TYPE_CHECKING:
    from selfplay.inspect.query.api import Run


def standard_observers(observed: Observed) -> Sequence[Observer]:
    """The observers of a run: retention, trackers, report."""
    from selfplay.inspect.report.observer import Report
    from selfplay.inspect.tracking.tracking import open_trackers

    store, config, reporter = observed.store, observed.config, observed.reporter
    observers: list[Observer] = [Retention(store, config.storage, reporter)]
    if observed.folder is not None:
        observers.append(open_trackers(config.tracking, store, observed.folder, reporter.say))
    return [*observers, Report(store, config.report, config.rounds, reporter.say)]


def _with_trace(trace: str | Path | None) -> MakeObservers:
    """The standard observers, and one that writes a trace to a new file. Raises ConfigError where that is not possible."""
    if trace is None:
        return standard_observers
    path = Path(trace).absolute()
    require_new_file(path)

    def make(observed: Observed) -> Sequence[Observer]:
        standard = standard_observers(observed)
        # a resume that has nothing to do has no folder, and nothing to trace
        return standard if observed.folder is None else [*standard, Trace(path, observed.store.layout.root.name)]

    return make


def _opened(run_dir: str | Path) -> Run:
    from selfplay.inspect.query.api import open_run

    return open_run(run_dir)


def run_folder(config: str | Path | Config | Mapping[str, Any], run_dir: str | Path | None) -> Path:
    """Where a new run goes: `run_dir`, else runs/NAME-OF-THE-CONFIG."""
    if run_dir is not None:
        return Path(run_dir)
    return Path("runs") / (Path(config).stem if isinstance(config, (str, Path)) else "run")


def preflight(
    config: str | Path | Config | Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Prepared, str]:
    """Check everything about a new run that needs no worker. Returns what is ready to run, with its plan, and the text of the
    configuration. See `start` for the arguments."""
    settings, search_path, given = _load(config, overrides)
    say = (reporter or Reporter()).say
    return driver.preflight(settings, search_path, run_folder(config, run_dir), force=force, say=say), given


def _load(config: str | Path | Config | Mapping[str, Any], overrides: Sequence[str]) -> tuple[Config, Path, str]:
    """The settings of a new run, the folder of its configuration, and the configuration's text."""
    if isinstance(config, (str, Path)):
        path = Path(config)
        settings, search_path = load_config(path, overrides), path.resolve().parent
        given = path.read_text(encoding="utf-8")
    else:
        document = config.model_dump(mode="json") if isinstance(config, Config) else copy.deepcopy(dict(config))
        given, search_path = dump(document), Path.cwd()
        for override in overrides:
            apply_override(document, override)
        settings = absolute_places(validate(document, "the configuration"), search_path)
    check_installed(settings.tracking.to)
    return settings, search_path, given


def start(
    config: str | Path | Config | Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    grace: float = 25.0,
    reporter: Reporter | None = None,
    workers: MakeWorkers | None = None,
    stop: StopFlag | None = None,
    trace: str | Path | None = None,
) -> Run:
    """Start a run and work on it until it is complete, as `selfplay run` does.

    `config` is the path of a YAML file, a `Config` or a dict of settings; `overrides` are `key=value` strings. `run_dir` must not
    exist yet (default: runs/NAME-OF-THE-CONFIG). `force` continues where a data-quality check or an
    estimate of memory or disk would stop the run. `grace` is how
    many seconds after SIGTERM the run stops at once. `workers` and `stop` replace the Ray workers and the handling of signals.
    `trace` is a new file for a trace of what the driver and the workers do (see `inspect/trace.py`).

    Raises ConfigError, ModelError, DataError or ResourceError before anything runs; Interrupted when it is stopped; other
    SelfplayError when it fails. What is committed is kept: `resume` continues it.

    Example:
        run = selfplay.start("configs/quickstart.yaml", run_dir="runs/first", overrides=["rounds=2"])
        run.rounds.to_pandas()
    """
    reporter = reporter or Reporter()
    target, observers = run_folder(config, run_dir), _with_trace(trace)
    require_empty_dir(target)
    settings, search_path, given = _load(config, overrides)
    with driver.begin_workers(settings, workers) as (make, device):
        prepared = driver.preflight(settings, search_path, target, force=force, say=reporter.say, device=device)
        for line in prepared.plan.lines():
            reporter.say(line)
        reporter.say(f"run directory: {prepared.run_dir}   (log: {prepared.run_dir}/attempts/0001/log.txt)")
        driver.run(prepared, given, list(overrides), reporter, grace, make, observers=observers, stop=stop, force=force)
    return _opened(prepared.run_dir)


def resume(
    run: str | Path,
    *,
    overrides: Sequence[str] = (),
    force: bool = False,
    grace: float = 25.0,
    reporter: Reporter | None = None,
    workers: MakeWorkers | None = None,
    stop: StopFlag | None = None,
    trust_code: bool = False,
    trace: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Continue a run, as `selfplay resume` does: committed work is kept, and the rest is done.

    `settings` (and `overrides`, as `key=value` strings) may add rounds and change resource settings; a setting in a section is
    given as `**{"report.every": 2}`. See `start` for the other arguments.

    Settings and contents are compared before any code of the run is loaded. `trust_code` runs the code of a run that you have not
    begun on this machine: functions that its settings name, and code of its models.

    Raises DriftError for a setting that makes another run (`fork` can change most), LockedError while another process works on
    it, ConfigError for code that is not trusted, MissingInputError for inputs that are not where they were.

    Example:
        selfplay.resume("runs/first", rounds=4)
    """
    store = _open_for_work(run)
    require_writable(store.layout.root, _of_read_only(store, run))
    store.forbid_symlinks()
    observers = _with_trace(trace)
    reporter, given = reporter or Reporter(), [*overrides, *_as_overrides(settings)]
    before, after, search_path = _changed_settings(store, given)
    with driver.begin_workers(after, workers, store) as (make, device):
        pins, command = store.config_json("pins.json", dict), ["resume", Path(run), *given]
        pinned = find_again(store, before, after, search_path, command)
        check_drift(store, before, pinned.config, pins, pinned.pins)
        check_policy_code(store, pinned)
        require_trust(store.run_id, run, pinned.code, command, named=given, trust_code=trust_code)
        prepared = driver.preflight(
            pinned.config, pinned.search_path, store.layout.root, store,
            force=force, pinned=pinned, say=reporter.say, device=device,
        )  # fmt: skip
        note_code(store.run_id, pinned.code, reporter.say, trust_code=trust_code)
        driver.resume(
            store, prepared, before, pins, reporter, grace, make,
            observers=observers, stop=stop, force=force,
        )  # fmt: skip
    return _opened(Path(run))


def _open_for_work(run: str | Path) -> Store:
    """The store of a run that an attempt may be made at. Raises ConfigError for the record of a selection from a dataset."""
    store = Store.open(run_root(Path(run)))
    if is_selection(store):
        raise ConfigError(
            f"{run} was written by `selfplay select`: it has no policy to train",
            "An unfinished selection is continued by the same `selfplay select` command.",
        )
    return store


def _of_read_only(store: Store, run: str | Path) -> str:
    """What can be done with a run that can only be read."""
    last = last_whole_round(store)
    looked = f"It can be looked at ({shell_command('rounds', Path(run))})"
    if last is None:
        return f"{looked}. To continue it, copy it to your own folder and resume the copy."
    fork = shell_command("fork", Path(run), "--from-round", last, "--run-dir", "NEW-FOLDER", "rounds=N")
    return f"{looked} and continued in your own folder: {fork}"


def _changed_settings(store: Store, overrides: Sequence[str]) -> tuple[Config, Config, Path]:
    """The settings in force of a run that has begun, the same with overrides, and the folder of its configuration."""
    document = config_in_force(store)
    before = validate(document, f"{store.layout.root}/config/resolved.json")
    for override in overrides:
        apply_override(document, override)
    search_path = search_path_in_force(store)
    after = absolute_places(validate(document, "the command line"), search_path)
    check_installed(after.tracking.to)
    return before, after, search_path


def _as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `key=value` strings, as the command line takes them."""
    return [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()]


def fork_folder(run: str | Path, from_round: int, run_dir: str | Path | None) -> Path:
    """Where a fork goes: `run_dir`, else RUN-from-N beside the other run."""
    root = Path(run).absolute()
    return Path(run_dir) if run_dir is not None else root.with_name(f"{root.name}-from-{from_round}")


def plan_fork(
    run: str | Path,
    *,
    from_round: int,
    run_dir: str | Path,
    overrides: Sequence[str] = (),
    force: bool = False,
    trust_code: bool = False,
    reporter: Reporter | None = None,
) -> Forking:
    """Check that a run can be forked, and return what it shares, changes and will do. See `fork` for the arguments."""
    source = _open_for_work(run)
    settings = _changed_settings(source, overrides)
    command = _fork_command(run, from_round, run_dir, overrides)
    return prepare_fork(
        source, from_round, *settings, Path(run_dir), command=command, overrides=overrides, trust_code=trust_code,
        force=force, say=(reporter or Reporter()).say,
    )  # fmt: skip


def _fork_command(run: str | Path, from_round: int, run_dir: str | Path, overrides: Sequence[str]) -> list[object]:
    """The arguments of the command that forks a run, for hints."""
    return ["fork", Path(run), "--from-round", from_round, "--run-dir", Path(run_dir), *overrides]


def create_fork(forking: Forking, overrides: Sequence[str], reporter: Reporter | None = None) -> Run:
    """Create the new run of a fork, without an attempt at it: `resume` begins it."""
    driver.create(
        forking.prepared, forking.given(), forking.overrides(overrides), reporter or Reporter(), forking.lineage(),
        forking.files(),
    )  # fmt: skip
    return _opened(forking.prepared.run_dir)


def fork(
    run: str | Path,
    *,
    from_round: int,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    grace: float = 25.0,
    reporter: Reporter | None = None,
    workers: MakeWorkers | None = None,
    trust_code: bool = False,
    **settings: Any,
) -> Run:
    """Create a run that shares the committed rounds 0 to `from_round` of another one, and work on it with other settings, as
    `selfplay fork` does.

    `run_dir` must not exist yet (default: RUN-from-N beside the other run). See `resume` for `settings`, `overrides` and
    `trust_code`, `start` for the other arguments.

    Raises ConfigError for a round that cannot be forked from, DriftError for settings that a fork cannot change.

    Example:
        selfplay.fork("runs/first", from_round=1, **{"selection.keep": 0.25})
    """
    reporter = reporter or Reporter()
    overrides = [*overrides, *_as_overrides(settings)]
    target = fork_folder(run, from_round, run_dir)
    require_empty_dir(target)
    source = _open_for_work(run)
    before, after, search_path = _changed_settings(source, overrides)
    with driver.begin_workers(after, workers) as (make, device):
        command = _fork_command(run, from_round, target, overrides)
        forking = prepare_fork(
            source, from_round, before, after, search_path, target, command=command, overrides=overrides,
            trust_code=trust_code, force=force, say=reporter.say, device=device,
        )  # fmt: skip
        for line in forking.lines():
            reporter.say(line)
        reporter.say(f"run directory: {target}   (log: {target}/attempts/0001/log.txt)")
        driver.run(
            forking.prepared, forking.given(), forking.overrides(overrides), reporter, grace, make,
            observers=standard_observers, forked_from=forking.lineage(), files=forking.files(), force=force,
        )  # fmt: skip
    return _opened(target)
