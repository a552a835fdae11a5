"""Fake backends of benchmarks, which answer at once: what is measured is the work around them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfplay.core.answer_schemas import LOGPS_SCHEMA
from selfplay.core.protocols import (
    LogprobItem,
    SampleRequest,
    SamplingSettings,
    ScoreItem,
    StepMetrics,
    TrainJob,
    TrainResult,
    WeightSync,
)
from selfplay.core.score_table import score_table


class FakeSampler:
    """Answers at once, with as many tokens as there are in a line of text."""

    def describe(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def load_policy(self, folder: str, digest: str, canaries: Sequence[Any]) -> WeightSync:
        """Always."""
        return WeightSync("loaded", 0.0, None)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        """Different responses of 20 tokens."""
        rows = [(request, index) for request in requests for index in request.indices(settings)]
        ids = [[5 + (request.seed + index + place) % 500 for place in range(20)] for request, index in rows]
        return pa.table(
            {
                "prompt_id": [request.prompt_id for request, _ in rows],
                "response_index": pa.array([index for _, index in rows], pa.int64()),
                "seed": pa.array([request.seed + index for request, index in rows], pa.int64()),
                "token_ids": pa.array(ids, pa.list_(pa.int32())),
                "num_tokens": pa.array([20] * len(rows), pa.int64()),
                "text": [f"words {request.seed} {index}" for request, index in rows],
                "finish_reason": ["stop"] * len(rows),
            }
        )


class FakeScorer:
    """Rewards by a hash of the id."""

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        """A finite reward for each response."""
        return score_table(items, [(float(hash(item.response_id) % 100_003), None) for item in items])


class FakeLogprobs:
    """Log-probs by the token ids."""

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """A sum for each response."""
        rows = [(item.response_id, -0.001 * (sum(item.token_ids) % 1009) - 1, len(item.token_ids)) for item in items]
        return pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=LOGPS_SCHEMA)

    def release(self) -> None:
        """Nothing is held."""


def fake_result(job: TrainJob, log: list[StepMetrics], *, num_steps: int, resumed_from_step: int = 0) -> TrainResult:
    """Of a training whose first loss is the expected one."""
    return TrainResult(
        optimizer_steps=num_steps,
        resumed_from_step=resumed_from_step,
        first_loss=0.6931,
        expected_first_loss=0.6931,
        checked_pairs=len(job.pairs),
        logp_error_max=0.0,
        logp_error_mean=0.0,
        update_norm=1.0,
        changed_fraction=1.0,
        seconds=0.1,
        steps=log,
        canaries=[],
        versions={"fake": "1"},
    )


def one_step(job: TrainJob, progress: Callable[[StepMetrics], None]) -> TrainResult:
    """What a trainer says of a training of one step that changes nothing."""
    step = StepMetrics(1, 1, 0.69, job.learning_rate, 1.0, 0.5, 0.0)
    progress(step)
    return fake_result(job, [step], num_steps=1)


class CopyingTrainer:
    """Its policy is the one that it was given."""

    def train(self, job: TrainJob, progress: Callable[[StepMetrics], None]) -> TrainResult:
        """One step."""
        shutil.copytree(job.policy_dir, Path(job.output_dir) / "policy")
        return one_step(job, progress)
