"""What every stage is given, and the one way in which stages work shard by shard."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from selfplay.core.errors import SelfplayError
from selfplay.core.losses import LOSSES
from selfplay.core.outcomes import Outcome, TrainOutcome
from selfplay.core.pool import Workers
from selfplay.core.protocols import Canary, StepMetrics, WeightSync
from selfplay.core.stages import Source, shard_inputs, stage_named
from selfplay.core.timing import Record, collecting, part, record
from selfplay.execution.reporter import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.inputs.resolve import Inputs
from selfplay.run.stages.settings import StageSettings
from selfplay.store.commits import Commit
from selfplay.store.layout import stage_name
from selfplay.store.run import Store, now
from selfplay.store.shard_feed import ShardFeed, check_reads
from selfplay.store.writer import StageWriter

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as the loop knows it: `folder` holds float32 weights (or the user's own folder in round 0), `engine_folder`
    what the engine loads, `digest` identifies the weights, `round` is the round that trained it."""

    folder: str
    engine_folder: str
    digest: str
    round: int
    canaries: tuple[Canary, ...] = ()


class Devices(Protocol):
    """The dtype of the engine ("float32" or "bfloat16") and the trainer's precision ("float32" or "bf16")."""

    @property
    def engine_dtype(self) -> str: ...

    @property
    def precision(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OnCpu:
    """Of workers without a GPU."""

    engine_dtype: str = "float32"
    precision: str = "float32"


@dataclass(frozen=True)
class StageContext:
    """What every stage is given: the store with the committed tables, its settings, the inputs and workers, and whom to tell. A
    stage is called with it and the number of the round."""

    store: Store
    settings: StageSettings
    inputs: Inputs
    workers: Workers
    fingerprint: str
    attempt: int
    versions: dict[str, str]
    reporter: Reporter
    stop: StopFlag = field(default_factory=StopFlag)
    devices: Devices = OnCpu()
    force: bool = False
    # the round was imported from a dataset: responses have columns of their own, candidate pairs have drop reasons
    from_dataset: bool = False
    # what was compared of the engines of each reward model in this attempt, by section (see reward_engine.py)
    compared_engines: dict[str, pa.Table] = field(default_factory=dict)
    # called with a round and each optimizer step of its training
    on_step: Callable[[int, StepMetrics], None] = lambda round_number, step: None
    # the stages that run side by side with this one, by round and name: those whose shards it reads, and itself
    feeds: Mapping[tuple[int, str], ShardFeed] = field(default_factory=dict)
    # called with a round, a stage and where its time went, once it is committed
    on_timing: Callable[[int, str, Record], None] = lambda round_number, stage, spent: None
    # called with what a stage waits for while it loads, and again with the seconds when it is there
    on_loading: Callable[[str, float | None], None] = lambda what, seconds: None

    def policy(self, round_number: int) -> Policy:
        """The policy after a round: the starting one for round 0; that of an earlier round where training was skipped."""
        if round_number == 0:
            given = str(self.inputs.policy.folder)
            return Policy(given, given, self.inputs.policy.digest, 0)
        outcome = self.store.outcome(round_number, TrainOutcome)
        if outcome.training is None:
            return self.policy(outcome.policy_round)
        if (mark := self.store.tombstone(round_number)) is not None:
            raise SelfplayError(
                f"the policy of round {round_number} was deleted on {mark.removed} ({mark.why}), and this stage needs it",
                "Continue from a round whose policy exists: `selfplay gc RUN --keep-policies 2 --dry-run` lists them.",
            )
        self.store.require(round_number, "train")
        folder = self.store.layout.stage(round_number, "train")
        engine = folder / "engine" if (folder / "engine").is_dir() else folder / "policy"
        canaries = tuple(outcome.training.canaries)
        return Policy(str(folder / "policy"), str(engine), outcome.policy_digest, round_number, canaries)

    def trained_policy(self, round_number: int) -> Policy:
        """The policy that this round trains."""
        return self.policy(round_number - 1 if self.settings.training.start == "previous" else 0)

    def reference_policy(self, round_number: int) -> Policy | None:
        """The reference of this round's loss, or of a selection from a dataset; None where there is none."""
        if (given := self.inputs.reference) is not None:
            return Policy(str(given.folder), str(given.folder), given.digest, 0)
        if LOSSES[self.settings.training.loss].reference_free:
            return None
        return self.policy(round_number - 1 if self.settings.training.reference == "previous" else 0)

    def data_rounds(self, round_number: int) -> list[int]:
        """Rounds whose kept pairs this round trains on, this one last."""
        first = 1 if self.settings.training.data == "accumulated" else round_number
        return list(range(first, round_number + 1))

    def reads(self, round_number: int, stage: str) -> list[tuple[int, str]]:
        """The commits that a stage reads as a whole, by the table of stages. A table of numbers has no prompts and responses, so
        that a selection from it lacks the stages before *select*."""
        found = {
            (number, given.stage)
            for given in stage_named(stage).inputs
            for number in self._rounds(given.source, round_number)
        }
        found -= {(round_number, stage), *self._shard_inputs(round_number, stage)}
        return sorted(key for key in found if not self.from_dataset or self.store.is_committed(*key))

    def _shard_inputs(self, round_number: int, stage: str) -> list[tuple[int, str]]:
        """The stages that a stage reads shard by shard. A selection from a dataset reads every stage as a whole."""
        return [] if self.from_dataset else [(round_number, name) for name in shard_inputs(stage)]

    def feed(self, round_number: int, stage: str) -> ShardFeed:
        """The shards of a stage, whether it is committed or runs side by side with the one that asks."""
        return self.feeds.get((round_number, stage)) or self.store.feed(round_number, stage)

    def _rounds(self, source: Source, round_number: int) -> list[int]:
        """The rounds that an input is of. A policy is held by the training of its round; the starting policy is pinned with
        the run and needs no commit."""
        match source:
            case "same":
                return [round_number]
            case "first":
                return [0]
            case "previous":
                return [round_number - 1] if round_number else []
            case "data":
                return self.data_rounds(round_number)
            case "earlier":
                return self.data_rounds(round_number)[:-1]
            case "sampler":
                policy_round = round_number - 1
            case "evaluated":
                policy_round = round_number
            case "trained":
                policy_round = self.trained_policy(round_number).round
            case "reference":
                reference = self.reference_policy(round_number)
                policy_round = reference.round if reference is not None else 0
        return [policy_round] if policy_round > 0 else []

    def serve(self, round_number: int) -> list[WeightSync]:
        """Have every engine serve the policy after a round; returns what each reports about the change, for the record."""
        policy = self.policy(round_number)
        changes: list[WeightSync] = self.workers.sampler.broadcast(
            "load_policy", policy.engine_folder, policy.digest, policy.canaries
        )
        for change in changes:
            if change.how == "rebuilt":
                self.reporter.say(f"engine rebuilt for the policy of round {policy.round}: {change.reason}")
        return changes

    def start_others(self, shard: int) -> None:
        """Start the workers that have not started: the first shard is sampled. They import while the engine works."""
        self.workers.start()

    def writer(self, round_number: int, stage: str, *, made_with: str = "") -> StageWriter:
        """A writer for a stage; reports what it adopts from an earlier attempt (which was `made_with` the same: see StageInputs).
        The record of the stage's time begins."""
        collecting(self.on_loading)
        feed = self.feeds.get((round_number, stage))
        reads, on_shard = self.reads(round_number, stage), feed.add if feed is not None else lambda index: None
        writer = self.store.writer(
            round_number, stage, self.fingerprint, reads, on_shard, self.stop.check_at_once, made_with
        )
        if feed is not None:
            feed.begin(writer)
        if writer.adopted:
            self.reporter.say(
                f"round {round_number} {stage}: {writer.adopted} shards of an earlier attempt are adopted"
            )
        return writer

    def require_end(self, feed: ShardFeed) -> tuple[Commit, str]:
        """Wait until a stage that runs side by side is committed; returns its commit and the digest of that. Raises Interrupted
        where it has stopped."""
        found = feed.wait_committed()
        if found is None:
            self.stop.check()
        assert found is not None, "a stage that ends without a commit stops those that read it"
        return found

    def commit(self, writer: StageWriter, started: float, outcome: Outcome) -> None:
        """Commit a stage, after those that it read shard by shard; `started` is the monotonic time at which this attempt began
        it. Raises Interrupted where one of those has stopped without a commit."""
        read = self._shard_inputs(writer.round, writer.stage)
        sources = {stage_name(*source): self.require_end(self.feed(*source)) for source in read}
        check_reads(writer, {name: commit for name, (commit, _) in sources.items()})
        seconds = time.monotonic() - started
        spent = record()
        assert spent is not None, "`writer` has begun a record on this thread"
        recorded = dataclasses.replace(outcome, adopted_shards=writer.adopted, timing=spent.seconds())
        digests = {name: digest for name, (_, digest) in sources.items()}
        with part("committing"):
            writer.commit(self.attempt, now(), round(seconds, 3), recorded, self.versions, digests)
        if (feed := self.feeds.get((writer.round, writer.stage))) is not None:
            feed.commit(
                self.store.commit_of(writer.round, writer.stage), self.store.digest_of(writer.round, writer.stage)
            )
        self.on_timing(writer.round, writer.stage, spent)


def derive_seed(*parts: object) -> int:
    """31-bit seed from a run's seed and names: the same wherever, whenever and in whatever order it is derived."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
