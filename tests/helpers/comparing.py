"""Comparisons on fakes. The sampler's answers depend on the policy that is served, so that arms differ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfplay.compare.arms import EQUAL, parse_arms
from selfplay.compare.main import compare
from selfplay.compare.settings import Wanted
from selfplay.core.protocols import Canary, SampleRequest, SamplingSettings, WeightSync
from selfplay.execution.progress import Reporter
from tests.helpers.fakes import Fakes, FakeSampler


class PolicySampler(FakeSampler):
    """Answers differ with the policy."""

    served = "0"

    def load_policy(self, folder: str, digest: str, canaries: Sequence[Canary]) -> WeightSync:
        self.served = digest
        return super().load_policy(folder, digest, canaries)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        shift = int(self.served[:6], 16)
        moved = [
            SampleRequest(r.prompt_id, r.prompt_token_ids, (r.seed + shift) % 2**31, r.num_responses, r.first_index)
            for r in requests
        ]
        return super().sample(moved, settings)


def fakes(*, gold: bool = True) -> Fakes:
    """Fakes with answers that depend on the policy."""
    found = Fakes(gold=gold)
    found.sampler = PolicySampler()
    return found


METRICS = "random,explicit_margin"
GOLD = "def gold(prompt, response):\n    return float(len(response.split()))\n"


def document_of(world: Path) -> dict[str, Any]:
    """A config as tests/conftest.py writes it, with a gold judge beside it."""
    return {
        "policy": {"model": str(world / "policy")},
        "prompts": {"source": str(world / "prompts.jsonl"), "per_round": 20},
        "sampling": {"num_responses": 4, "temperature": 0.8, "max_tokens": 8, "shard_size": 6},
        "reward": {"model": str(world / "reward_model")},
        "selection": {"weight": 1.0, "keep": 0.5},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2, "epochs": 2},
        "evaluation": {
            "source": str(world / "eval_prompts.jsonl"), "num_prompts": 10, "num_responses": 2, "gold": "my_gold.py:gold",
        },
        "rounds": 2,
        "seed": 0,
    }  # fmt: skip


def run_compare(
    out: Path,
    configs: Sequence[Path] = (),
    *overrides: str,
    metrics: str = "",
    arms: Sequence[str] = (),
    workers: Any = None,
    retry_failed: bool = False,
    trust_code: bool = False,
    said: io.StringIO | None = None,
    equal: str = "",
    **wanted: Any,
) -> dict[str, Any]:
    """`selfplay compare` with fakes."""
    asked = Wanted(
        configs=tuple(configs),
        overrides=overrides,
        arms=tuple(parse_arms([metrics], arms)),
        equal=EQUAL if equal == "both" else (equal,) if equal else (),
        **wanted,
    )
    return compare(
        asked, out, workers=workers or fakes(), reporter=Reporter(said or io.StringIO()),
        retry_failed=retry_failed, trust_code=trust_code,
    )  # fmt: skip
