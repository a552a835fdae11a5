"""What every stage is given, and the one way in which stages work shard by shard."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfplay.config.schema import Config
from selfplay.core.errors import SelfplayError
from selfplay.core.pool import Workers
from selfplay.core.protocols import Canary, CanaryPosition
from selfplay.execution.reporter import Reporter
from selfplay.execution.signals import StopFlag
from selfplay.inputs.resolve import Inputs
from selfplay.store.run import Store, now
from selfplay.store.writer import StageWriter


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
        if (mark := self.store.tombstone(round_number)) is not None:
            raise SelfplayError(
                f"the policy of round {round_number} was taken away on {mark.removed} ({mark.why}), and it is needed now",
                "Go on from a round whose policy is there: `selfplay gc RUN --keep-policies 2 --dry-run` lists them.",
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
        changes = self.workers.sampler.broadcast("load_policy", policy.engine_folder, policy.digest, policy.canaries)
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
