"""What every stage is given, and the one way in which stages work shard by shard."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from selfplay.cluster.pool import Pool, Workers
from selfplay.config.schema import Config
from selfplay.errors import Interrupted, SelfplayError
from selfplay.inputs import Inputs
from selfplay.protocols import Canary, CanaryPosition
from selfplay.stages.halving import GiveUp, answers
from selfplay.store.run import Store, now
from selfplay.store.writer import StageWriter

Item = TypeVar("Item")

GIVEN_UP = ".quarantined"


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or a test."""

    def say(self, message: str) -> None:
        """One line for people."""

    def begin(self, title: str, total: int, done: int, unit: str) -> None:
        """A piece of work of `total` units begins, `done` of them adopted."""

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more units are done and kept."""

    def end(self) -> None:
        """The piece of work is over."""


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM: stages stop at the next safe point."""

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def check(self) -> None:
        """Raise Interrupted when a stop was asked for."""
        if self.exit_code is not None:
            raise Interrupted(
                "stopped as asked; what was committed is kept", "`selfplay resume` goes on.", self.exit_code
            )


class UnderWay(Protocol):
    """What work by shards needs of its surroundings; a run's `Context` is one."""

    @property
    def reporter(self) -> Reporter: ...

    @property
    def stop(self) -> StopFlag: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as the loop knows it: `folder` holds float32 weights (or the user's own folder in round 0), `engine_folder`
    what the engine loads, `digest` identifies the weights, `round` is the round that trained it."""

    folder: str
    engine_folder: str
    digest: str
    round: int
    canaries: tuple[Canary, ...] = ()


@dataclass(frozen=True)
class Context:
    """A run under way."""

    store: Store
    config: Config
    inputs: Inputs
    workers: Workers
    fingerprint: str
    attempt: int
    versions: dict[str, str]
    reporter: Reporter
    stop: StopFlag = field(default_factory=StopFlag)
    engine_dtype: str = "float32"
    precision: str = "float32"
    force: bool = False
    # called with a round, an optimizer step of it and its numbers, as they come
    on_step: Callable[[int, int, Mapping[str, Any]], None] = lambda round_number, step, numbers: None

    def policy(self, round_number: int) -> Policy:
        """The policy after a round: the starting one for round 0; that of an earlier round where training was skipped."""
        if round_number == 0:
            given = str(self.inputs.policy.folder)
            return Policy(given, given, self.inputs.policy.digest, 0)
        metrics = self.store.metrics(round_number, "train")
        if metrics["policy_round"] != round_number:
            return self.policy(metrics["policy_round"])
        if (mark := self.store.removed(round_number)) is not None:
            raise SelfplayError(
                f"the policy of round {round_number} was taken away on {mark.removed} ({mark.why}), and it is needed now",
                "Go on from a round whose policy is there: `selfplay gc RUN --keep-checkpoints 2 --dry-run` lists them.",
            )
        self.store.require(round_number, "train")
        folder = self.store.layout.stage(round_number, "train")
        engine = folder / "engine" if (folder / "engine").is_dir() else folder / "policy"
        canaries = tuple(
            Canary(item["prompt_token_ids"], [CanaryPosition(**position) for position in item["positions"]])
            for item in metrics["canaries"]
        )
        return Policy(str(folder / "policy"), str(engine), metrics["policy_digest"], round_number, canaries)

    def serve(self, round_number: int) -> list[dict[str, Any]]:
        """Have every engine serve the policy after a round; returns what each said of the change, for the record."""
        policy = self.policy(round_number)
        changes = self.workers.sampler.everyone("load_policy", policy.engine_folder, policy.digest, policy.canaries)
        for change in changes:
            if change.how == "rebuilt":
                self.reporter.say(f"engine rebuilt for the policy of round {policy.round}: {change.reason}")
        return [
            {
                "how": change.how, "seconds": round(change.seconds, 3), "canary_error": change.canary_error,
                "canary_positions": change.canary_positions, "reason": change.reason,
            }
            for change in changes
        ]  # fmt: skip

    def writer(self, round_number: int, stage: str, reads: Sequence[tuple[int, str]]) -> StageWriter:
        """A writer for a stage; says what it adopts of an earlier attempt."""
        writer = self.store.writer(round_number, stage, self.fingerprint, reads)
        if writer.adopted:
            self.reporter.say(
                f"round {round_number} {stage}: {writer.adopted} shards of an earlier attempt are adopted"
            )
        return writer

    def commit(self, writer: StageWriter, started: float, metrics: dict[str, Any]) -> None:
        """Commit a stage; `started` is the monotonic time at which this attempt began it."""
        seconds = time.monotonic() - started
        document = {**metrics, "adopted_shards": writer.adopted}
        writer.commit(self.attempt, now(), round(seconds, 3), document, self.versions)


def derive_seed(*parts: object) -> int:
    """31-bit seed from a run's seed and names: the same wherever, whenever and in whatever order it is derived."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive pieces of `size` items; one empty piece when there are none, so that every table has a shard."""
    return [items[start : start + size] for start in range(0, len(items), size)] or [items]


def run_shards(
    context: UnderWay,
    writer: StageWriter,
    pool: Pool,
    method: str,
    shards: Sequence[Sequence[Item]],
    arguments: Callable[[Sequence[Item]], tuple[Any, ...]],
    finish: Callable[[int, Any], pa.Table],
    *,
    title: str,
    unit: str,
    table: str = "",
    give_up: GiveUp[Item] | None = None,
) -> None:
    """Send the shards that are not kept yet to a pool and keep each as it comes back.

    `finish` turns a shard's index and result into the rows to keep. After a stop was asked for no new shard is sent; those
    under way are still kept, then Interrupted is raised. A shard that kills its worker is halved (see halving.py); what
    `give_up` gives up is kept beside the table (see `quarantined`).
    """
    kept = writer.shards(table)
    total = sum(len(shard) for shard in shards)
    context.reporter.begin(title, total, sum(len(shards[index]) for index in kept), unit)
    todo = [index for index in range(len(shards)) if index not in kept]

    def asked() -> Iterator[tuple[int, Sequence[Item]]]:
        for index in todo:
            if context.stop.exit_code is not None:
                return
            # a shard without items costs no call: its result is None
            if shards[index]:
                yield index, shards[index]

    try:
        for index in todo:
            if not shards[index]:
                writer.write_shard(index, finish(index, None), table)
        for index, answer in answers(
            pool, method, asked(), arguments, give_up, context.reporter.say, title,
            lambda: context.stop.exit_code is not None, len(quarantined(writer, table)),
        ):  # fmt: skip
            # an attempt that was killed between the two may have left names, which need not have to go again
            if answer.given_up or index in writer.shards(_given_up(table)):
                columns = [pa.array(column, pa.string()) for column in zip(*answer.given_up, strict=True)]
                names = pa.table(columns or [pa.array([], pa.string())] * 2, names=["name", "reason"])
                writer.write_shard(index, names, _given_up(table))
            writer.write_shard(index, finish(index, answer.table), table)
            context.reporter.advance(len(shards[index]))
    finally:
        context.reporter.end()
    context.stop.check()


def _given_up(table: str) -> str:
    """Where the names of what was given up for a table are kept."""
    return f"{GIVEN_UP}/{table.strip('.') or 'rows'}"


def quarantined(writer: StageWriter, *tables: str) -> dict[str, str]:
    """What a stage gave up for these of its tables because it killed its worker, with the reasons, by name."""
    found: dict[str, str] = {}
    for table in tables:
        for index in sorted(writer.shards(_given_up(table)) & writer.shards(table)):
            rows = writer.read_shard(index, _given_up(table))
            found |= dict(zip(rows["name"].to_pylist(), rows["reason"].to_pylist(), strict=True))
    return found
