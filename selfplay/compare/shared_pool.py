"""What the arms of a block share, and where it is made: pool runs, from which every arm's run is forked.

`pool` holds the start's evaluation (round 0) and the first round up to its log-probs, made with the block's configuration. Arms
whose settings lead to other pairs or other log-probs have a `pool-HASH` between: forked from `pool` after scoring, with pairs and
log-probs of its own, which arms of the same settings share again.
"""

from __future__ import annotations

from typing import Any

from selfplay.config.schema import Config
from selfplay.core.losses import LOSSES
from selfplay.inputs.resolve import Inputs
from selfplay.store.durable import canonical_json, sha256_bytes
from selfplay.store.layout import POOL

SHARED_BY_ALL = ((0, "prompts"), (0, "evaluate"), (1, "prompts"), (1, "sample"), (1, "score"))
SHARED_BY_LIKE = (*SHARED_BY_ALL, (1, "pair"), (1, "logprobs"))
LAST = SHARED_BY_LIKE[-1]


def pool_key(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What decides the pairs and the log-probs of round 1, of the settings that arms may differ in. (Start and reference are the
    initial policy in round 1 whatever they are set to; `quantities` are what is made there for the metric.)"""
    return {
        "pairs": config.pairs.model_dump(mode="json"),
        "reference": not LOSSES[config.training.loss].reference_free,
        "precision": config.training.precision,
        "logprobs": config.selection.logprobs.source,
        "quantities": sorted(inputs.ranking.made_for(1)),
    }


def pool_name(key: dict[str, Any], base: dict[str, Any]) -> str:
    """The folder of the pool run that an arm's run is forked from, in a block whose configuration has the key `base`."""
    return POOL if key == base else f"{POOL}-{sha256_bytes(canonical_json(key))[:8]}"
