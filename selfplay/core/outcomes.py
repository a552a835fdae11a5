"""The outcome of each stage when it is committed: one frozen record per stage, the content of `.metrics.json`.

`to_json` and `from_json` convert between a record and its JSON object. A field whose default is None has no key while it is None.
A field marked with `FLAT` holds a nested record whose keys lie directly in the stage's object.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict

from selfplay.core.engine_check import EngineCheck
from selfplay.core.parse_record import FLAT, STRICT, nested, parse_record, to_document
from selfplay.core.protocols import TrainingNumbers, TrainResult, WeightSync
from selfplay.core.timing import PartSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Base of the records. `adopted_shards` counts shards that an earlier attempt had finished. `timing`: where the time of the
    attempt that committed the stage went, by who spent it ("driver", "sampler-0")."""

    stage: ClassVar[str]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    adopted_shards: int = 0
    timing: dict[str, PartSeconds] | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `.metrics.json`."""
        return to_document(self)


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row of a prompt source that cannot be used, and why."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class RewardPart:
    """One part of a combined reward: its weight, and the mean and standard deviation that normalise it."""

    weight: float
    mean: float
    std: float
    num_scored: int


@dataclass(frozen=True, slots=True)
class CombinedReward:
    """How the parts of a reward were combined (`reward.parts`)."""

    reward_normalize: str
    reward_parts: dict[str, RewardPart]


@dataclass(frozen=True, slots=True)
class RewardEngine:
    """What computed the rewards of a model, "vllm" or "transformers", and why. `check`: the rewards of both on a few responses;
    null where only one was asked."""

    engine: str
    reason: str
    check: EngineCheck | None = None


@dataclass(frozen=True, slots=True)
class ForcedGate:
    """A data-quality check that failed and was passed with `--force`: the setting and what was found."""

    gate: str
    message: str


@dataclass(frozen=True, slots=True)
class LengthFit:
    """A fitted penalty (reward for each token), the mean length gap (tokens of chosen - rejected) that it leads to, and that
    without a penalty; gaps are null where there is no pair. `balanced`: the gap is within NEAR_ZERO; otherwise the penalty
    is that of the gap nearest to zero that was found (with few pairs the gap moves in steps)."""

    penalty: float
    length_gap: float | None
    length_gap_without: float | None
    balanced: bool


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """What was asked and the pool's numbers: recorded with the pairs table. Plain values; `dataclasses.asdict` is JSON.

    Means and standard deviations are over the pairs that entered the ranking and have both margins
    (`num_standardized`), over the whole pool also where there are groups; null without log-probs. `effective_beta` is
    null with groups, which have one each. Length gap = mean of num_tokens_chosen - num_tokens_rejected. `cut_value`
    is the last metric value kept, null with quotas of groups. `drop_reasons` counts the pairs that are not kept, by
    reason. The last five fields are None where they were not asked for. `notes` are
    sentences for the user.
    """

    metric: str
    options: dict[str, float]
    keep: float
    seed: int
    implicit_margin: str
    weight: float
    beta: float | None
    standardize: bool
    num_pairs: int
    num_groups: int | None
    num_ranked: int
    num_kept: int
    drop_reasons: dict[str, int]
    cut_value: float | None
    num_standardized: int
    explicit_margin_mean: float | None
    explicit_margin_std: float | None
    implicit_margin_abs_mean: float | None
    implicit_margin_abs_std: float | None
    effective_beta: float | None
    implicit_margin_all_zero: bool
    length_gap_mean: float | None
    length_gap_kept_mean: float | None
    notes: list[str]
    keep_per_group: float | dict[str, float] | None = None
    min_per_group: int | None = None
    max_per_prompt: int | None = None
    keep_lowest: bool | None = None
    keep_zero_margins: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(TrainingNumbers):
    """A training that took place. `num_pairs_quarantined` counts kept pairs that were left out because a response of theirs is
    quarantined: of earlier rounds, or found when the model passed over the kept pairs."""

    num_pairs: int
    num_pairs_quarantined: int

    @classmethod
    def of(cls, result: TrainResult, num_pairs: int, num_pairs_quarantined: int) -> Training:
        """The record of a result."""
        numbers = {each.name: getattr(result, each.name) for each in dataclasses.fields(TrainingNumbers)}
        return cls(num_pairs=num_pairs, num_pairs_quarantined=num_pairs_quarantined, **numbers)


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """Mean of one part of a combined reward over the held-out prompts, sampled and greedy."""

    mean: float | None
    greedy_mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The numbers of one evaluation; null is what it does not have. Prompts are the unit: intervals are 95 % bootstrap over
    them. Win-rates and gains compare sampled responses to the same prompt, by the rewards that `eval_judge` names.
    `eval_num_ungolded` counts the responses without a gold reward although the run has a gold judge."""

    eval_judge: str
    eval_num_prompts: int
    eval_reward_mean: float | None
    eval_reward_ci_low: float | None
    eval_reward_ci_high: float | None
    eval_reward_greedy_mean: float | None
    eval_num_unscored: int
    eval_num_tokens_mean: float | None
    eval_truncated_fraction: float | None
    eval_distinct_fraction: float | None
    eval_distinct_1: float | None
    eval_distinct_2: float | None
    eval_distinct_3: float | None
    eval_reward_parts: dict[str, EvaluatedPart] | None = None
    eval_num_ungolded: int
    eval_gold_mean: float | None
    eval_gold_ci_low: float | None
    eval_gold_ci_high: float | None
    eval_gold_greedy_mean: float | None
    eval_win_rate_vs_initial: float | None
    eval_gain_vs_initial: float | None
    eval_gain_vs_initial_ci_low: float | None
    eval_gain_vs_initial_ci_high: float | None
    eval_win_rate_vs_previous: float | None
    eval_gain_vs_previous: float | None
    eval_gain_vs_previous_ci_low: float | None
    eval_gain_vs_previous_ci_high: float | None
    eval_gold_drop_reasons: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsOutcome(Outcome):
    """Stage *prompts*. `bad_rows` are the first invalid rows of the source, of `num_bad_rows`."""

    stage = "prompts"

    num_prompts: int
    num_admitted: int
    drop_reasons: dict[str, int]
    num_bad_rows: int
    bad_rows: list[InvalidRow]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOutcome(Outcome):
    """Stage *sample*. `num_tokens_sampled` and `sampling_seconds` are of the attempt that committed the stage; `quarantined`
    names the prompts that killed their engine, with the reason; `engines` is what each engine reports about itself."""

    stage = "sample"

    num_prompts: int
    num_responses: int
    num_tokens: int
    num_truncated: int
    num_duplicates: int
    drop_reasons: dict[str, int]
    quarantined: dict[str, str]
    policy_digest: str
    weight_changes: list[WeightSync]
    engines: list[dict[str, Any]]
    num_tokens_sampled: int
    sampling_seconds: float
    num_mixed: int
    stop_token_ids: list[int]

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that the engines sampled per second; null where no token was sampled by the last attempt."""
        if not self.num_tokens_sampled or not self.sampling_seconds:
            return None
        return round(self.num_tokens_sampled / self.sampling_seconds, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOutcome(Outcome):
    """Stage *score*. `num_gold` counts responses with a gold reward; `gold_lacks` names the prompt columns that the gold judge
    needs and the training prompts do not have; `called_by_prompt` names the sections of the batched reward functions, which
    were called with all responses to one prompt at a time; `reward_engines` has what computed the rewards of each model, by
    its section."""

    stage = "score"

    num_responses: int
    num_scored: int
    reward_mean: float | None
    reward_std: float | None
    num_gold: int
    gold_reward_mean: float | None
    drop_reasons: dict[str, int]
    combined: CombinedReward | None = field(default=None, metadata=FLAT)
    gold_drop_reasons: dict[str, int]
    gold_lacks: list[str]
    called_by_prompt: list[str] | None = None
    reward_engines: dict[str, RewardEngine] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOutcome(Outcome):
    """Stage *pair*. `length_gap_mean` is in tokens, chosen - rejected."""

    stage = "pair"

    num_pairs: int
    num_prompts_paired: int
    unused_reasons: dict[str, int]
    length_penalty: float
    length_fit: LengthFit | None
    length_gap_mean: float | None
    gates_forced: list[ForcedGate]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobsOutcome(Outcome):
    """Stage *logprobs*. `quarantined` names the responses that killed their worker, with the reason; `made_for_metric` holds
    what is recorded about each extra table that the round's metric reads. `source`: where policy_logp comes from, "engine" (of
    `num_from_engine` responses; the others were passed over by the model), "model" or "dataset", with the reason."""

    stage = "logprobs"

    num_responses: int
    quarantined: dict[str, str]
    policy_digest: str
    reference_digest: str | None
    reference_is_policy: bool
    made_for_metric: dict[str, dict[str, Any]]
    source: str = "model"
    source_reason: str = ""
    num_from_engine: int = 0
    check: EngineCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOutcome(Outcome):
    """Stage *select*."""

    stage = "select"

    summary: SelectionSummary = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome(Outcome):
    """Stage *train*. `policy_round` is the round whose policy this round ends with: an earlier one where no pair was kept and
    training was skipped; then `training` is None."""

    stage = "train"

    skipped: bool
    policy_round: int
    policy_digest: str
    optimizer_steps: int
    training: Training | None = field(default=None, metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOutcome(Outcome):
    """Stage *evaluate*; `evaluation` is None in a run without held-out prompts. `reward_engines`: see `ScoreOutcome`."""

    stage = "evaluate"

    weight_changes: list[WeightSync]
    policy_digest: str
    eval_quarantined: dict[str, str]
    reward_engines: dict[str, RewardEngine] | None = None
    combined: CombinedReward | None = field(default=None, metadata=FLAT)
    evaluation: Evaluation | None = field(default=None, metadata=FLAT)


class RoundOutcomes:
    """The outcomes of a round's committed stages, by class.

    Example: outcomes.get(TrainOutcome) -> TrainOutcome | None
    """

    def __init__(self, found: Iterable[Outcome] = ()) -> None:
        self._found = {type(outcome): outcome for outcome in found}

    def get(self, kind: type[OutcomeT]) -> OutcomeT | None:
        """The outcome of this class; None where its stage is not committed."""
        outcome = self._found.get(kind)
        assert outcome is None or isinstance(outcome, kind)
        return outcome

    def __iter__(self) -> typing.Iterator[Outcome]:
        return iter(self._found.values())

    def evaluation(self) -> Evaluation | None:
        """The numbers of the round's evaluation; None where it is not committed or the run has no held-out prompts."""
        outcome = self.get(EvaluateOutcome)
        return outcome.evaluation if outcome else None

    def selection(self) -> SelectionSummary | None:
        """The summary of the round's selection; None where it is not committed."""
        outcome = self.get(SelectOutcome)
        return outcome.summary if outcome else None


def from_json(kind: type[OutcomeT], document: Mapping[str, Any]) -> OutcomeT:
    """The record of a JSON object. Raises ValueError for a missing, unknown or mistyped key."""
    return parse_record(kind, nested(kind, document))
