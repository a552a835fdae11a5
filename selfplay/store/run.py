"""A run directory: created, opened, read, and written through stage writers. Its state is what its commits say."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError
from selfplay.core.json_text import parse_json
from selfplay.core.stages import STAGE_NAMES, stage_named, stages_of
from selfplay.core.version import __version__
from selfplay.store import durable
from selfplay.store.commits import Commit, check_stage, misplaced, read_commit, remedy
from selfplay.store.fork import Fork, inherit
from selfplay.store.layout import METRICS, SCHEMA_VERSION, SELECT, Layout, attempts_present, rounds_present, stage_name
from selfplay.store.new_folder import require_empty_dir
from selfplay.store.policy_removal import delete_policy, finish_deletion
from selfplay.store.run_identity import Identity, new_id, read_identity
from selfplay.store.symlinks import forbid_symlinks, symlinks_in_run
from selfplay.store.tombstone import STAGE as TRAIN
from selfplay.store.tombstone import Tombstone, read_tombstone

if TYPE_CHECKING:
    import pyarrow as pa

    from selfplay.core.outcomes import OutcomeT, RoundOutcomes
    from selfplay.store.lazy_table import LazyTable
    from selfplay.store.shard_feed import ShardFeed
    from selfplay.store.writer import StageWriter

STOP = "STOP"
_OF_ATTEMPT = "Restore it from a backup. No row depends on an attempt, but the newest one has the current settings."
DERIVED = ("report.html", "README.md")


def now() -> str:
    """UTC time stamp, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Store:
    """Reads and writes the run at `layout.root`. Writing needs the run's lock, which the driver holds."""

    layout: Layout
    run_id: str
    created: str
    # sha256 of the files of `config/`
    config_digests: dict[str, str]
    forked_from: Fork | None = None
    _checked: set[tuple[int, str]] = field(default_factory=set)
    _commits: dict[tuple[int, str], tuple[Commit, str]] = field(default_factory=dict)

    @classmethod
    def create(
        cls, root: Path, files: dict[str, bytes], forked_from: Fork | None = None, run_id: str | None = None
    ) -> Store:
        """A new run directory with the files of `config/`. It must be missing or empty; RUN.json is written last. What
        `forked_from` names is taken over by `inherit`. `run_id` is one of `new_id`, for a caller that needs it before."""
        root = root.absolute()
        require_empty_dir(root)
        layout = Layout(root)
        for folder in (layout.config, layout.attempts, layout.rounds, layout.work):
            forbid_symlinks(folder, root)
            durable.make_folder(folder)
        for path in (*durable.temporaries(root, "RUN.json"), *durable.temporaries(layout.config)):
            durable.discard(path)
        for name, data in files.items():
            durable.write_file(layout.config / name, data)
        digests = {name: durable.sha256_bytes(data) for name, data in files.items()}
        identity = Identity(run_id or new_id(), SCHEMA_VERSION, __version__, now(), forked_from, digests)
        durable.write_file(layout.identity, durable.json_with_checksum(dataclasses.asdict(identity)))
        return cls(layout, identity.id, identity.created, digests, forked_from)

    @classmethod
    def open(cls, root: Path) -> Store:
        """The run at `root`. Raises ConfigError when there is none or another version wrote it, CorruptionError."""
        layout = Layout(root.absolute())
        identity = read_identity(root, layout)
        return cls(layout, identity.id, identity.created, identity.config, identity.forked_from)

    def inherit(self) -> list[tuple[int, str]]:
        """Take over what the run was forked from and does not have yet; returns the (round, stage) taken over."""
        return inherit(self.layout, self.forked_from) if self.forked_from else []

    def fork_to(self, root: Path, stages: Sequence[tuple[int, str]], changes: tuple[dict[str, Any], ...] = ()) -> Fork:
        """The lineage of a run at `root` that takes over these (round, stage) of this one."""
        digests = {stage_name(*key): self.digest_of(*key) for key in stages}
        return Fork(self.run_id, os.path.relpath(self.layout.root, root.absolute()), digests, changes)

    def config_file(self, name: str) -> bytes:
        """A file of `config/`. Raises CorruptionError where it is not what RUN.json says."""
        path = self.layout.config / name
        forbid_symlinks(path, self.layout.root)
        if not path.is_file():
            raise CorruptionError(f"{path} is missing", "Restore it from a backup.")
        data = durable.read_file(path)
        if self.config_digests.get(name) != durable.sha256_bytes(data):
            raise CorruptionError(
                f"{path} is damaged: its sha256 is not the one in RUN.json",
                "Restore it from a backup: a run's settings are changed with key=value on the command line.",
            )
        return data

    def config_json(self, name: str, kind: type[Any]) -> Any:
        """A JSON file of `config/` whose value is a `kind`. Raises CorruptionError."""
        path = self.layout.config / name
        try:
            value = parse_json(self.config_file(name))
        except ValueError as error:
            raise CorruptionError(f"{path} is damaged ({error})", "Restore it from a backup.") from None
        if not isinstance(value, kind):
            raise CorruptionError(f"{path} is damaged: it holds a {type(value).__name__}", "Restore it from a backup.")
        return value

    def revisions(self) -> dict[str, str]:
        """Setting -> NAME@COMMIT of the hub models that the run was started with."""
        found: dict[str, str] = self.config_json("revisions.json", dict)
        return found

    # ------------------------------------------------------------------ attempts

    def begin_attempt(self, document: dict[str, Any]) -> int:
        """A new attempt's folder with `attempt.json`; returns its number."""
        number = (attempts_present(self.layout) or [0])[-1] + 1
        folder = self.layout.attempt(number)
        durable.make_folder(folder)
        durable.write_file(
            folder / "attempt.json", durable.json_with_checksum({"attempt": number, "started": now(), **document})
        )
        return number

    def end_attempt(self, number: int, outcome: str, message: str = "") -> None:
        """Record how an attempt ended: complete, interrupted or failed. A killed attempt has no such file."""
        end = {"attempt": number, "ended": now(), "outcome": outcome, "message": message}
        durable.write_file(self.layout.attempt(number) / "end.json", durable.json_with_checksum(end))

    def attempt_documents(self) -> list[dict[str, Any]]:
        """attempt.json of every attempt with its `end` (null if it was killed), oldest first. Raises CorruptionError for a
        damaged one: the newest holds the settings in force."""
        documents = []
        for number in attempts_present(self.layout):
            document = self.attempt_file(number, "attempt.json")
            if document is not None:
                documents.append({**document, "end": self.attempt_file(number, "end.json")})
        return documents

    def attempt_file(self, number: int, name: str) -> dict[str, Any] | None:
        """`attempt.json` or `end.json` of an attempt; None where a crash left none. Raises CorruptionError."""
        path = self.layout.attempt(number) / name
        forbid_symlinks(path, self.layout.root)
        try:
            if not path.exists():
                # it is the first file of an attempt: any other file was written later
                if name == "attempt.json" and any(not other.name.startswith(".") for other in path.parent.iterdir()):
                    raise CorruptionError(f"{path} is missing", _OF_ATTEMPT)
                return None
            document = durable.parse_checked_json(durable.read_file(path))
            key = {"attempt.json": "started", "end.json": "outcome"}[name]
            if document.get("attempt") != number or key not in document:
                raise ValueError("it is the file of another attempt")
        except (OSError, ValueError) as error:
            raise CorruptionError(f"{path} is damaged ({error})", _OF_ATTEMPT) from None
        return document

    # ------------------------------------------------------------------ reading

    def rounds(self) -> list[int]:
        """Rounds with at least one committed stage."""
        return [
            number for number in rounds_present(self.layout) if any(self.is_committed(number, s) for s in STAGE_NAMES)
        ]

    def is_committed(self, round_number: int, stage: str) -> bool:
        """Whether the stage's folder has its final name."""
        return self.layout.stage(round_number, stage).is_dir()

    def committed(self, round_number: int) -> list[str]:
        """The committed stages of a round, in order."""
        return [stage for stage in stages_of(round_number) if self.is_committed(round_number, stage)]

    def commit_of(self, round_number: int, stage: str) -> Commit:
        """The commit of a stage, its files' presence and sizes checked."""
        return self._read(round_number, stage)[0]

    def digest_of(self, round_number: int, stage: str) -> str:
        """sha256 of the stage's `.COMMIT.json`: what later commits name as their input."""
        return self._read(round_number, stage)[1]

    def _read(self, round_number: int, stage: str) -> tuple[Commit, str]:
        key = (round_number, stage)
        if key not in self._commits:
            folder = self.layout.stage(round_number, stage)
            if not folder.is_dir():
                again = "the same `selfplay select` command" if SELECT in self.config_digests else "`selfplay resume`"
                raise SelfplayError(
                    f"stage {stage} of round {round_number} is not committed in {self.layout.root}",
                    f"`selfplay status` shows the state of the run; {again} continues it.",
                )
            commit, digest = read_commit(folder)
            if (error := misplaced(folder, commit)) is not None:
                raise error
            check_stage(folder, commit, digest)
            self._commits[key] = (commit, digest)
        return self._commits[key]

    def require(self, round_number: int, stage: str) -> None:
        """Check the digests of a stage's files, once in the life of this object: before it is used as an input."""
        if (round_number, stage) not in self._checked:
            check_stage(self.layout.stage(round_number, stage), *self._read(round_number, stage), digests=True)
            self._checked.add((round_number, stage))

    def outcome(self, round_number: int, kind: type[OutcomeT]) -> OutcomeT:
        """The outcome that a stage recorded when it was committed; `kind` is its class, such as TrainOutcome. The digest is
        checked at every read: the record is small, and much depends on it (which policy serves, which may be deleted).

        Raises SelfplayError where the stage is not committed, CorruptionError for a record that is not what was committed.
        """
        from selfplay.core.outcomes import from_json

        commit, folder = self.commit_of(round_number, kind.stage), self.layout.stage(round_number, kind.stage)
        path = folder / METRICS
        try:
            data = durable.read_file(path)
            if [durable.sha256_bytes(data)] != [entry.sha256 for entry in commit.files if entry.path == METRICS]:
                raise CorruptionError(f"{path} is damaged: its sha256 differs from its manifest", remedy(folder))
            return from_json(kind, dict(parse_json(data)))
        except (OSError, ValueError, TypeError) as error:
            raise CorruptionError(f"{path} is damaged ({error})", remedy(folder)) from None

    def outcome_if_committed(self, round_number: int, kind: type[OutcomeT]) -> OutcomeT | None:
        """See `outcome`; None where the stage is not committed."""
        return self.outcome(round_number, kind) if self.is_committed(round_number, kind.stage) else None

    def outcomes(self, round_number: int) -> RoundOutcomes:
        """The outcomes of a round's committed stages. Raises CorruptionError."""
        from selfplay.core.outcomes import RoundOutcomes

        kinds = [stage_named(name).outcome for name in self.committed(round_number)]
        return RoundOutcomes(self.outcome(round_number, kind) for kind in kinds)

    def table(self, round_number: int, stage: str, table: str = "", columns: list[str] | None = None) -> pa.Table:
        """A committed table, all shards in order. `table` names a table inside the stage's folder."""
        return self.lazy_table(round_number, stage, table).read_all(columns)

    def lazy_table(self, round_number: int, stage: str, table: str = "") -> LazyTable:
        """A committed table of which nothing is read yet. See `table`."""
        # pyarrow.compute takes longer to import than `status` and `rounds` take without it
        from selfplay.store.lazy_table import LazyTable

        return LazyTable.of(self.layout.stage(round_number, stage), self.commit_of(round_number, stage).files, table)

    # ------------------------------------------------------------------ writing

    def writer(
        self,
        round_number: int,
        stage: str,
        fingerprint: str,
        reads: Sequence[tuple[int, str]],
        on_shard: Callable[[int], None] = lambda index: None,
        may_write: Callable[[], None] = lambda: None,
        made_with: str = "",
    ) -> StageWriter:
        """A writer for a stage made from the commits in `reads`; each is digest-checked first. `on_shard` and `may_write`: see
        StageWriter, `made_with`: see StageInputs."""
        from selfplay.store.writer import StageInputs, StageWriter

        for source in reads:
            self.require(*source)
        commits = {stage_name(*source): self.digest_of(*source) for source in sorted(reads)}
        # this process hashes each file while it writes or adopts it: `require` need not hash it again
        checked = functools.partial(self._checked.add, (round_number, stage))
        return StageWriter(
            self.layout, round_number, stage, StageInputs(fingerprint, commits, made_with), checked, on_shard, may_write
        )

    def feed(self, round_number: int, stage: str) -> ShardFeed:
        """The shards of a committed stage; their digests are checked first."""
        from selfplay.store.shard_feed import ShardFeed

        self.require(round_number, stage)
        return ShardFeed.of(self.layout.stage(round_number, stage), *self._read(round_number, stage))

    def scratch(self, round_number: int) -> Path:
        """A trainer's own folder, which is kept between attempts."""
        folder = self.layout.trainer_scratch(round_number)
        forbid_symlinks(folder, self.layout.root)
        durable.make_folder(folder)
        return folder

    def stop_file(self, round_number: int) -> Path:
        """The file that asks a trainer to stop; it does not exist when this returns."""
        path = self.scratch(round_number) / STOP
        durable.discard(path)
        return path

    def request_stop(self, round_number: int) -> None:
        """Ask the trainer of a round to seal a checkpoint and stop."""
        durable.write_file(self.scratch(round_number) / STOP, b"")

    def tombstone(self, round_number: int) -> Tombstone | None:
        """The record of a policy that `gc` deleted; None where the round's policy exists (or was never made)."""
        if not self.is_committed(round_number, TRAIN):
            return None
        commit, digest = self._read(round_number, TRAIN)
        return read_tombstone(self.layout.stage(round_number, TRAIN), commit.files, digest)

    def delete_policy(self, round_number: int, why: str) -> Tombstone:
        """Delete the policy of a round and leave a tombstone. Whether it may be deleted is not checked here: see retention.py."""
        self._commits.pop((round_number, TRAIN), None)
        return delete_policy(self.layout, round_number, now(), why)

    def forbid_symlinks(self) -> None:
        """Raise CorruptionError where there is a symbolic link among the run's files: before any is written or removed."""
        for path in symlinks_in_run(self.layout):
            forbid_symlinks(path, self.layout.root)

    def require_outside_run(self, path: Path) -> None:
        """Raise ConfigError for a path among the run's own files: only the store writes those."""
        layout, place = Layout(self.layout.root.resolve()), path.resolve()
        own = (layout.identity, layout.lock, layout.config, layout.attempts, layout.rounds, layout.work)
        if any(place == mine or mine in place.parents for mine in own) or place == layout.root:
            raise ConfigError(f"{path} is one of the run's own files", "Write to a place outside the run.")

    def clean_work(self) -> None:
        """Remove the remains of a kill: half-deleted policies, half-written files of attempts, and unused files in
        `.work/` (scratch of committed stages, half-deleted folders). Raises CorruptionError where there is a symbolic link."""
        self.forbid_symlinks()
        durable.make_folder(self.layout.work)  # copies leave empty folders behind
        finish_deletion(self.layout)
        for path in sorted(self.layout.work.iterdir()):
            number, _, name = path.name.partition("-")
            stage = "train" if name == "trainer" else name
            stale = number.isdigit() and self.is_committed(int(number), stage)
            if stale or path.name.startswith((".trash", ".tmp")):
                durable.discard(path)
        halves = [path for name in DERIVED for path in durable.temporaries(self.layout.root, name)]
        halves += durable.temporaries(self.layout.attempts, "*", below="*/")
        for path in halves:
            durable.discard(path)

    def write_derived(self, name: str, data: bytes) -> Path:
        """Write a file that nothing depends on (`report.html`, `README.md`), also while a driver runs: the last writer wins."""
        assert name in DERIVED, name
        durable.write_file(self.layout.root / name, data)
        return self.layout.root / name

    def drop_scratch(self, round_number: int) -> None:
        """Remove a trainer's folder once its policy is committed."""
        durable.remove_tree(self.layout.trainer_scratch(round_number))
