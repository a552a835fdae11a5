"""Small offline datasets as files, and fakes of the backends that `select` computes with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.config.schema import Config
from selfplay.core.pool import Workers
from selfplay.core.protocols import LogprobItem, ScoreItem
from selfplay.dataset_selection.pipeline import Outcome
from selfplay.inputs.resolve import Inputs
from tests.helpers.fakes import FakePool

Select = Callable[..., Outcome]

NUMBERS = (
    "reward_chosen", "reward_rejected", "policy_logp_chosen", "policy_logp_rejected", "num_tokens_chosen",
    "num_tokens_rejected",
)  # fmt: skip


def numbers(num_pairs: int, seed: int = 0) -> dict[str, Any]:
    """Columns that alignment potential reads."""
    rng = np.random.default_rng(seed)
    return {
        "reward_chosen": rng.normal(1, 1, num_pairs), "reward_rejected": rng.normal(0, 1, num_pairs),
        "policy_logp_chosen": -rng.random(num_pairs) * 90, "policy_logp_rejected": -rng.random(num_pairs) * 90,
        "num_tokens_chosen": rng.integers(5, 60, num_pairs), "num_tokens_rejected": rng.integers(5, 60, num_pairs),
    }  # fmt: skip


def number_table(path: Path, num_pairs: int = 50, seed: int = 0) -> Path:
    """A Parquet table of numbers without texts."""
    ids = [f"p{row:05d}" for row in range(num_pairs)]
    pq.write_table(pa.table({"pair_id": ids, **numbers(num_pairs, seed)}), path)
    return path


def text_rows(num_pairs: int, *, columns: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs with texts, with the numbers or without, and columns of the user's own."""
    found = {name: column.tolist() for name, column in numbers(num_pairs, seed).items()} if columns else {}
    return [
        {
            "prompt": [{"role": "user", "content": f"question {row}"}],
            "chosen": [{"role": "assistant", "content": f"good answer {row}"}],
            "rejected": [{"role": "assistant", "content": f"bad answer {row}, which is longer"}],
            "topic": ("maths", "code")[row % 2],
            **{name: values[row] for name, values in found.items()},
        }
        for row in range(num_pairs)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def kept(root: Path) -> list[dict[str, Any]]:
    """The kept pairs of a result, by rank."""
    return list(pq.read_table(root / "kept", partitioning=None).to_pylist())


def dropped(root: Path) -> list[dict[str, Any]]:
    """The other pairs of a result."""
    return list(pq.read_table(root / "dropped", partitioning=None).to_pylist())


class FakeScorer:
    """The reward is the number of letters of the response; what holds a `fail` has none."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        self.seen += [item.response_id for item in items]
        failed = ["fail" in item.response for item in items]
        return pa.table(
            {
                "response_id": [item.response_id for item in items],
                "reward": pa.array([None if f else float(len(i.response)) for i, f in zip(items, failed, strict=True)]),
                "drop_reason": pa.array(["reward_error: no" if f else None for f in failed], pa.string()),
            }
        )


class FakeLogprobs:
    """Log-probs that follow from the token ids and the model's digest."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.items: list[LogprobItem] = []

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        self.seen += [item.response_id for item in items]
        self.items += items
        scale = 1 + int(digest[:2], 16) / 100
        logps = [-scale * (1 + sum(item.token_ids) % 97) for item in items]
        return pa.table(
            {
                "response_id": [item.response_id for item in items],
                "logp": pa.array(logps, pa.float64()),
                "num_tokens": pa.array([len(item.token_ids) for item in items], pa.int64()),
            }
        )

    def logprobs_alone(self, folder: str, digest: str, items: Sequence[LogprobItem], start: int) -> pa.Table:
        return self.logprobs(folder, digest, [LogprobItem(i.response_id, [start], i.token_ids) for i in items])

    def yes_probability(self, folder: str, digest: str, questions: Sequence[Any], answers: Any) -> pa.Table:
        ids = [question.response_id for question in questions]
        probabilities = [(len(question.prompt_token_ids) % 10) / 10 for question in questions]
        return pa.table({"response_id": ids, "probability": pa.array(probabilities, pa.float64())})

    def embeddings(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        flat = pa.array([float(x) for i in items for x in (len(i.token_ids), len(i.prompt_token_ids))], pa.float32())
        return pa.table(
            {"response_id": [i.response_id for i in items], "embedding": pa.FixedSizeListArray.from_arrays(flat, 2)}
        )

    def release(self) -> None:
        pass


class Fakes:
    """Pools of the fakes, in the place of Ray; `started` counts how often workers were made."""

    def __init__(self) -> None:
        self.scorer, self.logprobs, self.started = FakeScorer(), FakeLogprobs(), 0
        # scorers of parts of a combined reward; others have `scorer`
        self.parts: dict[str, FakeScorer] = {}
        # ids of responses that kill their workers
        self.poison: set[str] = set()

    @contextmanager
    def __call__(self, config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        self.started += 1
        nobody = FakePool(None)
        scorer, logprobs = FakePool(self.scorer, self.poison), FakePool(self.logprobs, self.poison)
        parts = {name: FakePool(self.parts.get(name, self.scorer), self.poison) for name in config.reward.parts}
        one = None if parts else scorer
        yield Workers(sampler=nobody, scorer=one, logprobs=logprobs, trainer=nobody, parts=parts)
