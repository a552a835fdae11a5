"""The sections of a configuration that stages read."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.config.reward import RewardConfig
from selfplay.config.running import GatesConfig
from selfplay.config.schema import (
    EvaluationConfig,
    PromptsConfig,
    SamplingConfig,
    SelectionConfig,
    TrainingConfig,
)
from selfplay.selection.pair_rules import PairRules


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """What stages are set to. `prompts` and `evaluation` are None where there is nothing to sample from or to evaluate on;
    `max_poison_items` is how many items may be given up for killing their worker."""

    seed: int
    sampling: SamplingConfig
    reward: RewardConfig
    pairs: PairRules
    selection: SelectionConfig
    training: TrainingConfig
    gates: GatesConfig
    max_poison_items: int
    keep_trainer_checkpoints: int
    prompts: PromptsConfig | None = None
    evaluation: EvaluationConfig | None = None
