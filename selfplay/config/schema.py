"""The YAML schema of a run: frozen pydantic models, unknown keys forbidden, every field tagged (see tags.py).

Defaults are neutral values of the field; a recipe sets its own. A setting that does nothing in its combination is refused.
The sections that are about the machine and not about the results are in running.py.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from selfplay.config.reward import RewardConfig
from selfplay.config.running import ClusterConfig, GatesConfig, ReportConfig, StorageConfig, TrackingConfig
from selfplay.config.section import Section, refuse, require_commit
from selfplay.config.tags import content, identity, resource, tagged
from selfplay.core.errors import ConfigError
from selfplay.core.losses import LOSSES
from selfplay.selection.keep_limits import check_limits
from selfplay.selection.pair_rules import Build, PairRules


class PolicyConfig(Section):
    """The starting policy."""

    model: str = content(..., "folder or hub name of the starting policy")
    revision: str | None = identity(None, "hub revision; resolved to a commit and recorded")
    dtype: Literal["auto", "float32", "bfloat16"] = identity(
        "auto", "dtype of the engine: auto is float32 on a CPU, bfloat16 on a GPU; training keeps float32 weights"
    )
    chat_template: str | None = identity(
        None,
        "not set: the tokenizer's own; `none` (the word): a base model, prompts as plain text; else a Jinja template",
    )
    chat_template_kwargs: dict[str, Any] = identity({}, "passed to the chat template, as in {enable_thinking: false}")
    system_prompt: str | None = identity(None, "put before every prompt that has no system message")
    trust_remote_code: bool = identity(False, "run the model's own code; needs a pinned revision")

    @model_validator(mode="after")
    def _combination(self) -> Self:
        require_commit(self.revision, trust_remote_code=self.trust_remote_code)
        if self.chat_template == "none" and self.system_prompt is not None:
            raise ValueError("`system_prompt` needs a chat template: chat_template is none")
        return self


class PromptSource(Section):
    """Where prompts are read from."""

    source: str = content(..., "JSONL, JSON, CSV or Parquet file, a save_to_disk folder, or a hub dataset name")
    split: str | None = identity(None, "split of a hub dataset (required there), or of a folder of several")
    subset: str | None = identity(None, "subset of a hub dataset, or of a folder whose README.md names several")
    revision: str | None = identity(None, "revision of a hub dataset")
    column: str = identity("prompt", "column that holds the prompt: text or chat messages")
    id_column: str | None = identity(None, "column with unique ids; without it ids are hashes of the messages")


class PromptsConfig(PromptSource):
    """Where prompts come from."""

    per_round: int = identity(..., "number of prompts in each round", ge=1)
    order: Literal["fresh", "same"] = identity(
        "fresh", "fresh: disjoint slices round by round; same: one slice for all"
    )


class MixConfig(Section):
    """Responses of a second model among the policy's: a pool of mixed origin."""

    model: str = content(..., "folder or hub name of the second model; its tokenizer is the policy's")
    revision: str | None = identity(None, "hub revision; resolved to a commit and recorded")
    num_responses: int = identity(
        1, "how many of the sampling.num_responses of a prompt come from it (the last ones)", ge=1
    )
    share: float = identity(1.0, "fraction of the prompts that get them, chosen by the seed", gt=0, le=1)


class SamplingConfig(Section):
    """How responses are sampled; unset fields are vLLM's neutral values, never the model's generation_config."""

    num_responses: int = identity(5, "responses for each prompt", ge=1, le=1024)
    temperature: float = identity(1.0, "sampling temperature", gt=0)
    top_p: float = identity(1.0, "nucleus sampling; 1: off", gt=0, le=1)
    top_k: int = identity(0, "0: off", ge=0)
    min_p: float = identity(0.0, "0: off", ge=0, le=1)
    repetition_penalty: float = identity(1.0, "1: off", gt=0)
    presence_penalty: float = identity(0.0, "0: off")
    frequency_penalty: float = identity(0.0, "0: off")
    max_tokens: int = identity(..., "longest response, in tokens", ge=1)
    mix: MixConfig | None = identity(None, "responses of a second model among the policy's")
    shard_size: int = resource(
        64,
        "prompts in a shard, the unit that is kept when a run is killed; a stage that has begun keeps its shards",
        ge=1,
    )
    engine: dict[str, Any] = identity({}, "keys passed through to vLLM's engine")

    @model_validator(mode="after")
    def _mixed(self) -> Self:
        if self.mix is not None and self.mix.num_responses > self.num_responses:
            raise ValueError(
                f"`mix.num_responses` is {self.mix.num_responses}, but a prompt has {self.num_responses} responses in all"
            )
        return self


class PairsConfig(Section):
    """How pairs are built from the responses of a prompt."""

    build: Build = identity(
        "best_worst",
        "chosen: highest reward; rejected: the lowest, a random other one, the median or the one nearest mean - 2 std "
        "(best_worst, best_random, best_median, sweet_spot); or all, random_pair, minimum_gap",
    )
    max_per_prompt: int | None = identity(
        None, "most pairs of a prompt, those of the largest margin (build: all)", ge=1
    )
    min_gap: float = identity(0.0, "pairs whose explicit margin is not larger are dropped; 0 drops only ties", ge=0)
    max_similarity: float = identity(1.0, "pairs whose texts are more similar are dropped; 1 drops none", gt=0, le=1)
    max_length_gap: int | None = identity(None, "most tokens by which chosen and rejected may differ", ge=0)
    min_reward_chosen: float | None = identity(None, "pairs whose chosen reward is below it are dropped")
    max_reward_rejected: float | None = identity(None, "pairs whose rejected reward is above it are dropped")
    length_penalty: float | Literal["auto"] = identity(
        0.0,
        "subtracted from the reward for each token; auto: fitted so that chosen and rejected are equally long on average",
    )
    allow_truncated: bool = identity(False, "also pair responses that were cut at the length limit")

    @model_validator(mode="after")
    def _cap_needs_several_pairs(self) -> Self:
        if self.max_per_prompt is not None and self.build != "all":
            raise ValueError(f"`max_per_prompt` needs build: all; {self.build} gives at most one pair a prompt")
        return self

    def rules(self) -> PairRules:
        """As `selection.pairing` takes them."""
        return PairRules(**self.model_dump())


# metrics that compare the policy with the reference whatever the implicit margin
_OF_THE_REFERENCE = ("dpo_gap",)


class LogprobsConfig(Section):
    """Where the log-probs that rank the pairs come from."""

    source: Literal["auto", "engine", "model"] = identity(
        "auto",
        "engine: those that the sampler computed with the responses, where the sampler served the policy that is trained; "
        "model: a forward pass over all candidates; auto: engine if the dtypes allow it and a check of 64 responses passes",
    )


class SelectionConfig(Section):
    """Which pairs are kept."""

    metric: str = identity(
        "alignment_potential", "metric that ranks the pairs: a name that `selfplay metrics` lists, or file.py:function"
    )
    options: dict[str, float] = identity({}, "options of the metric, as in {tau: 2.0} for rs_dpo")
    group_column: str | None = identity(
        None, "column of the prompts (topic, source, ...): pairs are ranked by z-scores within its groups"
    )
    weight: float = identity(1.0, "weight of the implicit margin in the alignment potential", ge=0)
    implicit_margin: Literal["simpo", "dpo"] = identity(
        "simpo", "implicit margin: difference of mean log-probs (simpo) or beta times log-ratio difference (dpo)"
    )
    standardize: bool = identity(True, "z-score both margins over the pool")
    beta: float | None = identity(None, "beta of implicit_margin: dpo; training.beta if not set", gt=0)
    keep: float | int = identity(1.0, "fraction (0.4) or number (500) of the ranked pairs")
    keep_lowest: bool = identity(False, "keep the lowest values of the metric instead of the highest")
    keep_per_group: float | int | None = identity(
        None,
        "at most this fraction or number of the ranked pairs of each group of `group_column`; `keep` limits their sum",
    )
    min_per_group: int | None = identity(
        None, "this number of pairs of each group of `group_column` is kept before others", ge=1
    )
    max_per_prompt: int | None = identity(
        None, "at most this number of pairs of a prompt is ranked, the first by the metric (build: all)", ge=1
    )
    first_round_metric: str | None = identity(
        None, "metric of round 1, where policy and reference are the same, if `metric` compares the two"
    )
    logprobs: LogprobsConfig = tagged("identity", LogprobsConfig(), "where the log-probs of the candidates come from")

    @field_validator("metric", "first_round_metric")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        from selfplay.selection.metrics import find_metric  # numpy: not before a configuration is read

        own = name is not None and ":" in name  # looked for where a run begins: its folder is not known here
        if name is None or (own and info.field_name == "metric"):
            return name
        try:
            find_metric(name)
        except ConfigError as error:
            raise ValueError(f"{error.message}. {error.hint}") from None
        return name

    @model_validator(mode="after")
    def _keep_range(self) -> Self:
        if isinstance(self.keep, bool) or self.keep <= 0:
            raise ValueError("`keep` is a fraction above 0 up to 1.0, or a number of pairs")
        if isinstance(self.keep, float) and self.keep > 1:
            raise ValueError(
                f"`keep: {self.keep}` is not a fraction up to 1.0; write a number of pairs without a point"
            )
        if isinstance(self.keep, int) and self.keep == 1:
            raise ValueError("`keep: 1` may mean one pair or all: write 1.0 for all pairs")
        if self.implicit_margin == "simpo":
            refuse(self, ("beta",), "needs implicit_margin: dpo")
            if ":" not in self.metric and self.metric not in _OF_THE_REFERENCE:
                refuse(
                    self,
                    ("first_round_metric",),
                    "needs implicit_margin: dpo, or a metric that reads the reference",
                )
        if "full" in (self.metric, self.first_round_metric) and self.keep != 1.0:
            raise ValueError("metric: full keeps every pair: leave `keep` out, or choose another metric")
        if self.metric == "full" and self.group_column is not None:
            raise ValueError("metric: full keeps every pair: leave `group_column` out")
        check_limits(
            keep=self.keep, keep_lowest=self.keep_lowest, keep_per_group=self.keep_per_group,
            min_per_group=self.min_per_group, max_per_prompt=self.max_per_prompt, has_groups=self.group_column is not None,
        )  # fmt: skip
        return self


class LoraConfig(Section):
    """Low-rank adapters; they are merged in float32 into each round's policy."""

    r: int = identity(16, "rank", ge=1)
    alpha: float = identity(32.0, "scale", gt=0)
    dropout: float = identity(0.0, "dropout of the adapter's input", ge=0, lt=1)
    target_modules: str | list[str] = identity("all-linear", "modules with adapters, as in peft")


class TrainingConfig(Section):
    """One round of preference training."""

    loss: Literal["dpo", "simpo"] = identity("dpo", "preference loss")
    start: Literal["previous", "initial"] = identity("previous", "policy that is trained")
    reference: Literal["previous", "initial"] = identity(
        "previous", "previous: the policy that sampled; initial: round 0"
    )
    data: Literal["latest", "accumulated"] = identity("latest", "kept pairs of this round, or of all rounds")
    beta: float = identity(..., "strength of the preference loss", gt=0)
    simpo_gamma_beta_ratio: float | None = identity(None, "target margin of SimPO over beta", ge=0)
    learning_rate: float = identity(..., "peak learning rate of AdamW", gt=0)
    epochs: int = identity(1, "passes over the kept pairs", ge=1)
    max_steps: int | None = identity(None, "optimizer steps of a round, in place of epochs", ge=1)
    batch_size: int = identity(..., "pairs in an optimizer step, over all devices", ge=1)
    micro_batch_tokens: int | None = resource(
        None, "tokens in one forward pass, padding included; 16384 on a GPU and 1024 on a CPU if not set", ge=1
    )
    micro_batch_size: int | None = resource(
        None, "most pairs in one forward pass; not set: as many as `micro_batch_tokens` allows", ge=1
    )
    max_length: int | None = identity(None, "longest prompt + response in tokens; the context if not set", ge=2)
    warmup_ratio: float = identity(0.1, "fraction of the steps that warm up", ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = identity("cosine", "learning-rate schedule")
    precision: Literal["auto", "float32", "bf16"] = identity(
        "auto", "autocast of the forward pass (auto: float32 on a CPU, bf16 on a GPU); weights stay float32"
    )
    gradient_checkpointing: bool = resource(False, "less memory for about a third more time")
    checkpoint_every: int = resource(0, "optimizer steps between trainer checkpoints; 0: none inside a round", ge=0)
    lora: LoraConfig | None = identity(None, "train adapters instead of all weights")
    trl: dict[str, Any] = identity({}, "keys passed through to TRL's config")

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if self.loss == "simpo":
            refuse(self, ("reference",), "does nothing with loss: simpo, which has no reference")
            if self.simpo_gamma_beta_ratio is None:
                raise ValueError("loss: simpo needs `simpo_gamma_beta_ratio` (0.3 to 0.5 in published recipes)")
        elif self.simpo_gamma_beta_ratio is not None:
            raise ValueError("`simpo_gamma_beta_ratio` needs loss: simpo")
        if self.max_steps is not None:
            refuse(self, ("epochs",), "and `max_steps` both set the length of the training: give one of them")
        return self


class EvaluationConfig(PromptSource):
    """Held-out evaluation of the policy after every round."""

    source: str = content(..., "prompts held out from training, in any form that prompts.source takes")
    num_prompts: int | None = identity(None, "number of prompts, chosen by the seed; all if not set", ge=1)
    num_responses: int = identity(1, "sampled responses for each prompt", ge=1)
    greedy: bool = identity(True, "one greedy response for each prompt as well")
    max_tokens: int | None = identity(None, "longest response; sampling.max_tokens if not set", ge=1)
    gold: str | None = content(None, "module:function of a judge that is never trained on")


class Config(Section):
    """A whole run."""

    policy: PolicyConfig = identity(..., "the starting policy")
    prompts: PromptsConfig = identity(..., "where prompts come from")
    sampling: SamplingConfig = identity(..., "how responses are sampled")
    reward: RewardConfig = identity(..., "what labels the responses")
    pairs: PairsConfig = identity(PairsConfig(), "how pairs are built")
    selection: SelectionConfig = identity(SelectionConfig(), "which pairs are kept")
    training: TrainingConfig = identity(..., "one round of preference training")
    evaluation: EvaluationConfig | None = identity(None, "held-out evaluation")
    gates: GatesConfig = resource(GatesConfig(), "when a bad round stops the run")
    cluster: ClusterConfig = resource(ClusterConfig(), "where the work runs")
    tracking: TrackingConfig = resource(TrackingConfig(), "trackers to which the run sends its numbers")
    report: ReportConfig = resource(ReportConfig(), "the report that the run writes")
    storage: StorageConfig = resource(StorageConfig(), "what stays on disk")
    rounds: int = tagged("extendable", ..., "rounds to run", ge=1)
    seed: int = identity(0, "seed of everything that is random", ge=0, lt=2**63)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.selection.implicit_margin == "dpo":
            if LOSSES[self.training.loss].reference_free or self.training.reference == "previous":
                raise ValueError(
                    "selection.implicit_margin: dpo needs a reference that differs from the policy: with the reference reset "
                    "to the policy every implicit margin is 0. Use implicit_margin: simpo, or training.reference: initial"
                )
            if self.selection.first_round_metric is None:
                raise ValueError(
                    "selection.implicit_margin: dpo is not defined in round 1, where policy and reference are both the initial "
                    "policy. Set selection.first_round_metric (explicit_margin, random, ...)"
                )
            if self.training.start == "initial":
                raise ValueError(
                    "selection.implicit_margin: dpo with training.start: initial and reference: initial is always 0"
                )
        if self.selection.logprobs.source == "engine":
            if self.training.start == "initial":
                raise ValueError(
                    "selection.logprobs.source: engine needs training.start: previous: from round 2 on the sampler serves "
                    "another policy than the initial one. Use auto"
                )
            if self.policy.dtype == "bfloat16" and self.training.precision == "float32":
                raise ValueError(
                    "selection.logprobs.source: engine: an engine in bfloat16 (policy.dtype) does not give the log-probs of a "
                    "trainer in float32 (training.precision). Use auto, or the same dtype for both"
                )
        if self.sampling.num_responses < 2:
            raise ValueError("sampling.num_responses must be 2 or more: a pair consists of two responses")
        self.pairs.rules().check_num_responses(self.sampling.num_responses)
        if self.selection.max_per_prompt is not None and self.pairs.build != "all":
            raise ValueError(
                f"selection.max_per_prompt does nothing: pairs.build: {self.pairs.build} gives at most one pair a prompt"
            )
        return self
