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
from tests.helpers.configs import config_of
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
    """The small config, with a gold judge beside it."""
    return config_of(world, training={"epochs": 2}, evaluation={"gold": "my_gold.py:gold"})


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
