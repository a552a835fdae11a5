"""The driver: one attempt at a run, from its configuration to its last commit, or to wherever it was stopped.

Holds the run's lock, starts the workers, walks the loop, and writes how it ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.core.machine import DeviceFacts, this_device
from selfplay.core.redaction import find_secret
from selfplay.core.stages import stages_of
from selfplay.core.timing import Record
from selfplay.core.versions import versions
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.inputs.pinning import KEEP_SECRETS_OUT, Pinned, pin
from selfplay.inputs.resolve import Inputs, resolve
from selfplay.run import loop
from selfplay.run.allowed_changes import check_drift
from selfplay.run.attempt import attempt
from selfplay.run.code_trust import announce, note_begun
from selfplay.run.devices import LazyDevices, RunDevices, check_memory, find_devices
from selfplay.run.disk_estimate import check_room
from selfplay.run.library_checks import check_engine, check_pass_through, check_reward_engines
from selfplay.run.observers import MakeObservers, Observed, Observers, no_observers
from selfplay.run.overlap import overlap_of
from selfplay.run.plan import Plan, make_plan
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.settings import StageSettings
from selfplay.run.worker_specs import MakeWorkers, early_ray_workers, ray_workers
from selfplay.store.durable import make_folder, pretty_json
from selfplay.store.fork import Fork
from selfplay.store.layout import sidecars_in
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from selfplay.store.run_identity import new_id
from selfplay.store.run_state import next_stage


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: everything that can be checked without workers has been."""

    config: Config
    inputs: Inputs
    plan: Plan
    run_dir: Path
    search_path: Path


@contextlib.contextmanager
def begin_workers(
    config: Config, workers: MakeWorkers | None, store: Store | None = None
) -> Iterator[tuple[MakeWorkers, DeviceFacts]]:
    """What makes the workers of a run that is still to be checked, to be entered around the checks and the run: `workers` where
    it is given, else Ray's, which begin to start now. They do not where `store`, the run that goes on, has nothing left to do.
    And this machine before they start: the plan must not count their memory (about a gigabyte each) as taken."""
    device = this_device()
    if workers is not None or (store is not None and next_stage(store, config.rounds) is None):
        yield workers or ray_workers, device
        return
    with early_ray_workers(config) as make:
        yield make, device


def preflight(
    config: Config,
    search_path: Path,
    run_dir: Path,
    store: Store | None = None,
    rounds_done: int | None = None,
    *,
    force: bool = False,
    pinned: Pinned | None = None,
    say: Callable[[str], None] = lambda line: None,
    device: DeviceFacts | None = None,
) -> Prepared:
    """Resolve and check the inputs and make the plan. `store`: the run that is continued (or forked), whose hub models keep their
    commits and whose finished rounds (`rounds_done` of them, if given) need no more disk. `pinned`: inputs that were already
    found and compared (see `inputs.pinning`). `say` gets the code that will run, before it runs. `device`:
    see `begin_workers`; None: this machine as it is."""
    pinned = pinned or pin(config, search_path, store.revisions() if store else None)
    config, search_path = pinned.config, pinned.search_path
    announce(pinned.code, say)
    check_pass_through(config)
    inputs = check_engine(config, resolve(config, search_path, pinned=pinned))
    return prepare(config, inputs, run_dir, search_path, store, rounds_done, force=force, device=device)


def prepare(
    config: Config,
    inputs: Inputs,
    run_dir: Path,
    search_path: Path,
    store: Store | None,
    rounds_done: int | None = None,
    *,
    force: bool = False,
    device: DeviceFacts | None = None,
) -> Prepared:
    """The last part of `preflight`: count what will be done with these inputs."""
    check_reward_engines(config, inputs)
    if rounds_done is None:
        numbers = store.rounds() if store else []
        rounds_done = sum(number > 0 and store.is_committed(number, "evaluate") for number in numbers if store)
    begun = store is not None
    plan = make_plan(config, inputs, run_dir, rounds_done=rounds_done, force=force, begun=begun, device=device)
    return Prepared(config, inputs, plan, run_dir, search_path)


def run(
    prepared: Prepared,
    given: str,
    overrides: list[str],
    reporter: Reporter,
    grace: float = 25.0,
    workers: MakeWorkers | None = None,
    *,
    observers: MakeObservers = no_observers,
    forked_from: Fork | None = None,
    files: Mapping[str, bytes] | None = None,
    stop: StopFlag | None = None,
    until: tuple[int, str] | None = None,
    force: bool = False,
) -> Store:
    """Create a run and walk it to its end. `workers` replaces the Ray workers (tests, `compare`); `observers` makes what looks at
    it; `forked_from` names stages of another run that are taken over, `files` more files of `config/`; `stop` is the flag of a
    caller that handles the signals itself; `until` (a round and a stage) is the last stage to run; `force` continues where a
    data-quality check would stop the run (see stages/gates.py)."""
    with _created(prepared, given, overrides, reporter, forked_from, files or {}) as store:
        _attempt(store, prepared, reporter, grace, workers or ray_workers, observers, stop, until, force)
    return store


def create(
    prepared: Prepared,
    given: str,
    overrides: list[str],
    reporter: Reporter,
    forked_from: Fork | None,
    files: Mapping[str, bytes],
) -> Store:
    """Create a run, with the shared rounds of a fork, but without an attempt: a resume starts it. See `run`."""
    with _created(prepared, given, overrides, reporter, forked_from, files) as store:
        return store


@contextlib.contextmanager
def _created(
    prepared: Prepared,
    given: str,
    overrides: list[str],
    reporter: Reporter,
    forked_from: Fork | None,
    files: Mapping[str, bytes],
) -> Iterator[Store]:
    """A new run, its lock held."""
    run_dir = prepared.run_dir.absolute()
    if secret := find_secret(given):
        raise ConfigError(f"the configuration file holds {secret}", KEEP_SECRETS_OUT)
    make_folder(run_dir)
    with RunLock(run_dir / "run.lock"):
        run_id = new_id()
        note_begun(
            run_id, prepared.inputs.code, reporter.say
        )  # first: whenever it is killed, the run is the user's own
        store = Store.create(
            run_dir,
            {
                "given.yaml": given.encode(),
                "overrides.json": pretty_json(overrides),
                "resolved.json": pretty_json(prepared.config.model_dump(mode="json")),
                "pins.json": pretty_json(prepared.inputs.pins),
                "revisions.json": pretty_json(prepared.inputs.revisions),
                "search_path.json": pretty_json(str(prepared.search_path)),
                **files,
            },
            forked_from,
            run_id,
        )
        store.inherit()
        yield store


def resume(
    store: Store,
    prepared: Prepared,
    before: Config,
    pins: dict[str, str],
    reporter: Reporter,
    grace: float = 25.0,
    workers: MakeWorkers | None = None,
    *,
    observers: MakeObservers = no_observers,
    stop: StopFlag | None = None,
    until: tuple[int, str] | None = None,
    force: bool = False,
) -> None:
    """Another attempt at a run: adopt what is committed, do the rest. See `run` for the arguments."""
    with RunLock(store.layout.lock):
        for line in check_drift(store, before, prepared.config, pins, prepared.inputs.pins):
            reporter.say(f"changed: {line}")
        store.clean_work()
        store.inherit()
        for line in adopted(store, prepared.config):
            reporter.say(line)
        Observers(observers(Observed(store, prepared.config, reporter, None)), reporter).begin()
        if next_stage(store, prepared.config.rounds) is None:
            return
        _attempt(store, prepared, reporter, grace, workers or ray_workers, observers, stop, until, force)


def stage_settings(config: Config) -> StageSettings:
    """The sections that the stages of a run read."""
    return StageSettings(
        seed=config.seed,
        sampling=config.sampling,
        reward=config.reward,
        pairs=config.pairs.rules(),
        selection=config.selection,
        training=config.training,
        gates=config.gates,
        max_poison_items=config.cluster.max_poison_items,
        keep_trainer_checkpoints=config.storage.keep_trainer_checkpoints,
        prompts=config.prompts,
        evaluation=config.evaluation,
    )


def adopted(store: Store, config: Config) -> list[str]:
    """The state that a resume continues: committed stages, kept shards of the interrupted stage, and the next stage."""
    lines = []
    following = next_stage(store, config.rounds)
    done = [
        (number, [name for name in names if store.is_committed(number, name)])
        for number, names in ((n, stages_of(n)) for n in store.rounds())
    ]
    for number, names in done:
        if names:
            lines.append(f"adopted: round {number}: {', '.join(names)}")
    if following is None:
        lines.append("the run is complete; rounds=N adds rounds")
    else:
        kept = len(sidecars_in(store.layout.stage_work(*following)))
        under_way = f" ({kept} shards of it are kept)" if kept else ""
        lines.append(f"next: round {following[0]} {following[1]}{under_way}")
    return lines


def _attempt(
    store: Store,
    prepared: Prepared,
    reporter: Reporter,
    grace: float,
    make: MakeWorkers,
    make_observers: MakeObservers,
    given_stop: StopFlag | None,
    until: tuple[int, str] | None,
    force: bool,
) -> None:
    config, inputs = prepared.config, prepared.inputs
    document = {
        "config": config.model_dump(mode="json"),
        "force": force,
        "search_path": str(inputs.search_path),
        # a hub model's folder is named by the commit that its revision resolved to
        "folders": {name: str(model.folder) for name, model in {"policy": inputs.policy, **inputs.rewards}.items()},
    }
    again = f"`{shell_command('resume', store.layout.root)}` continues it."
    with (
        attempt(store, document, reporter, grace, given_stop, again) as current,
        make(config, inputs, current.folder) as workers,
    ):
        observers = Observers(make_observers(Observed(store, config, reporter, current.folder)), reporter)
        current.on_end, current.on_close = observers.end, observers.close

        def find() -> RunDevices:
            found = find_devices(config, workers)
            reporter.event("devices", **found.document())
            for warning in check_memory(config, inputs, found, force=force):
                reporter.say(f"warning: {warning}")
            return found

        devices = LazyDevices(find)

        def stage_begins(round_number: int, stage: str) -> None:
            reporter.stage(round_number, stage)
            observers.stage(round_number, stage)
            if stage in ("logprobs", "train"):
                # the log-probs get the dtype of the trainer, whichever stage comes first in this attempt
                devices.precision  # noqa: B018

        def check_disk(round_number: int, stage: str) -> None:
            # only a policy takes more or less room by its dtype
            dtype = devices.engine_dtype if stage == "train" else "float32"
            check_room(store, config, inputs, dtype, round_number, stage, force=force)

        def stage_ends(round_number: int, stage: str, spent: Record) -> None:
            reporter.committed(round_number, stage, spent.seconds())
            observers.timing(round_number, stage, spent)

        context = StageContext(
            store=store,
            settings=stage_settings(config),
            inputs=inputs,
            workers=workers,
            fingerprint=inputs.fingerprint(config),
            attempt=current.number,
            versions=versions(),
            reporter=reporter,
            stop=current.stop,
            devices=devices,
            force=force,
            on_step=observers.step,
            on_timing=stage_ends,
            on_loading=reporter.loading,
        )
        overlap = overlap_of(config.cluster, workers.own_devices)
        reporter.event("overlap", **asdict(overlap))
        reporter.log(overlap.text)
        loop.run(
            context, config.rounds, stage_begins,
            check_disk,
            until, observers.round,
        )  # fmt: skip
