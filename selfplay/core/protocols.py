"""The interface between the loop and its backends: small protocols and the plain values that cross a process boundary.

`run/stages/` builds these values, `execution/` carries them to worker processes, `backends/` implement the protocols. Tests use
fakes. Nothing here imports torch, vllm, trl or ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from selfplay.core.records import Message


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt to sample from. `seed` is a 31-bit integer; response i uses seed + i (mod 2**31). `num_responses` and
    `first_index` are set where a prompt's responses are shared out: i runs from `first_index` then, over that many."""

    prompt_id: str
    prompt_token_ids: list[int]
    seed: int
    num_responses: int | None = None
    first_index: int = 0

    def indices(self, settings: SamplingSettings) -> range:
        """The response indices asked for."""
        num = settings.num_responses if self.num_responses is None else self.num_responses
        return range(self.first_index, self.first_index + num)


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to sample. `temperature` 0 is greedy (then `num_responses` is 1 and seeds are not used). `logprobs`: the log-probs of
    the sampled tokens are wanted too."""

    num_responses: int
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class CanaryPosition:
    """At one position of a greedy continuation: the `top_ids` with the highest log-probs and these `top_logps` (natural log,
    temperature 1), best first; `top_ids[0]` is the token that was taken."""

    top_ids: list[int]
    top_logps: list[float]


@dataclass(frozen=True, slots=True)
class Canary:
    """What the trainer saw with its final weights on one prompt: its own greedy continuation, position by position."""

    prompt_token_ids: list[int]
    positions: list[CanaryPosition]


@dataclass(frozen=True, slots=True)
class WeightSync:
    """How an engine loaded a policy, as it is recorded. `how`: "loaded" (fresh engine), "reloaded" (new weights in the live
    engine) or "rebuilt" (the live change failed, for `reason`). `canary_error` is the largest difference of log-probs."""

    how: str
    seconds: float
    canary_error: float | None
    canary_positions: int = 0
    reason: str = ""


class Sampler(Protocol):
    """One engine: it lives as long as its process and serves one policy at a time."""

    def describe(self) -> dict[str, Any]:
        """Versions, device, dtype, max_model_len: recorded with the run."""

    def load_policy(self, folder: str, digest: str, canaries: Sequence[Canary]) -> WeightSync:
        """Serve the policy in `folder`. A no-op that still reports when `digest` is being served already."""

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        """Columns prompt_id, response_index, seed, token_ids, num_tokens, text, finish_reason, sampler_logp (null unless the
        settings ask for log-probs): a row for each of a request's indices, in the order of the requests."""


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """A response to be scored: the conversation before it, its text, and the prompt's other columns. `final_answer` is the
    response without its thoughts (None: it has none, the text is the answer), `no_answer` the reason why there is no final
    answer. Neighbours with the same `unit` are all responses to one prompt that were sampled in the same way: a batched function
    is called with all of them."""

    response_id: str
    messages: list[Message]
    response: str
    finish_reason: str = "stop"
    columns: dict[str, Any] = field(default_factory=dict)
    final_answer: str | None = None
    no_answer: str | None = None
    unit: str = ""


class Scorer(Protocol):
    """A reward model or reward function."""

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        """Columns response_id, reward (float64, null where it failed), drop_reason (null where it did not), in the order
        of the items."""


class EngineScorer(Protocol):
    """A reward model that vLLM or transformers can compute."""

    def score(self, items: Sequence[ScoreItem], engine: str = "transformers") -> pa.Table:
        """As `Scorer.score`, with this engine ("vllm" or "transformers")."""

    def compare(self, items: Sequence[ScoreItem]) -> pa.Table:
        """The rewards of a few of the items by both engines: columns response_id, reward (transformers) and engine_reward (vLLM;
        both float64, null for the other items), problem (why vLLM has none; else null), in the order of the items."""


@dataclass(frozen=True, slots=True)
class LogprobItem:
    """A response whose log-prob is wanted: the prompt's and the response's own token ids."""

    response_id: str
    prompt_token_ids: list[int]
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Question:
    """A rendered question about a response: the next token is the answer's first."""

    response_id: str
    prompt_token_ids: list[int]


class LogprobModel(Protocol):
    """Teacher-forced log-probs under a policy folder, and what else metrics read of it; each is asked for by itself."""

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """Columns response_id, logp (float64, sum over the response's tokens, temperature 1), num_tokens, in item order."""

    def logprobs_alone(self, folder: str, digest: str, items: Sequence[LogprobItem], start_token_id: int) -> pa.Table:
        """As `logprobs`, with `start_token_id` alone in the place of each prompt."""

    def yes_probability(
        self, folder: str, digest: str, questions: Sequence[Question], answers: Sequence[Sequence[int]]
    ) -> pa.Table:
        """Columns response_id, probability (float64 in [0, 1]: that one of the `answers` comes next), in question order."""

    def embeddings(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """Columns response_id, embedding (fixed-size list of float32: mean of the last hidden states over prompt and
        response), in item order."""

    def use_dtype(self, dtype: str) -> None:
        """Use another dtype ("float32" or "bfloat16") from here on."""

    def release(self) -> None:
        """Free the model's memory."""


@dataclass(frozen=True, slots=True)
class TrainPair:
    """One pair as the trainer takes it: token ids (end tokens included), never text."""

    pair_id: str
    prompt_token_ids: list[int]
    chosen_token_ids: list[int]
    rejected_token_ids: list[int]
    policy_logp_chosen: float
    policy_logp_rejected: float
    reference_logp_chosen: float | None
    reference_logp_rejected: float | None


@dataclass(frozen=True, slots=True)
class TrainLimits:
    """What a step's loss and gradient norm (before it is clipped) may be, and the L2 norm of the whole training's change over
    that of the starting policy; None: any number."""

    max_loss: float | None = None
    max_grad_norm: float | None = None
    max_update: float | None = None


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One round's training. Folders are absolute. `policy_dir` is a Hugging Face folder with the starting weights,
    `output_dir` an empty scratch folder that will hold `policy/` (float32, tokenizer included) and, when `engine_dtype` is
    bfloat16, `engine/` (the copy the engine loads). `checkpoint_dir` keeps sealed trainer checkpoints for a resume. Once
    `stop_file` exists the trainer seals a checkpoint after the step under way and raises Interrupted. `max_steps`: optimizer
    steps, instead of `epochs`. `keep_checkpoints`: how many of the newest sealed checkpoints stay. A forward pass takes at most
    `micro_batch_size` pairs and `micro_batch_tokens` tokens (None: by the device); neither changes the result."""

    pairs: Sequence[TrainPair]
    policy_dir: str
    output_dir: str
    checkpoint_dir: str
    seed: int
    loss: str
    beta: float
    gamma_beta_ratio: float | None
    learning_rate: float
    epochs: int
    batch_size: int
    micro_batch_size: int
    max_length: int
    warmup_ratio: float
    schedule: str
    precision: str
    engine_dtype: str
    checkpoint_every: int
    reference_is_policy: bool
    lora: dict[str, Any] | None = None
    gradient_checkpointing: bool = False
    trl: dict[str, Any] = field(default_factory=dict)
    canary_prompts: Sequence[list[int]] = ()
    canary_tokens: int = 8
    stop_file: str = ""
    max_steps: int | None = None
    keep_checkpoints: int = 2
    limits: TrainLimits = TrainLimits()
    micro_batch_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step's log line, as TRL reports it."""

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    rewards_accuracy: float
    rewards_margin: float


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that a trainer wrote: its path in `output_dir`, its size in bytes and its sha256 (hex)."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingNumbers:
    """What a training did. `first_loss` is the loss of all checked pairs before the first update, `expected_first_loss` its
    value at zero margin (null where that is not defined: SimPO, or reference != policy); `logp_error_*` hold the trainer's
    own log-probs against the table's, per token; `changed_fraction` counts weights that changed in the engine's dtype.
    `update_ratio` is `update_norm` over the norm of the starting policy; `chosen_logp_*` is the mean log-prob of a token of the
    chosen responses of the checked pairs (nats)."""

    resumed_from_step: int
    first_loss: float
    expected_first_loss: float | None
    checked_pairs: int
    logp_error_max: float
    logp_error_mean: float
    update_norm: float
    changed_fraction: float
    seconds: float
    steps: list[StepMetrics]
    canaries: list[Canary]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    update_ratio: float | None = None
    chosen_logp_before: float | None = None
    chosen_logp_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult(TrainingNumbers):
    """What a trainer returns. `files` lists all that is in `output_dir`; where it is empty the store hashes the files."""

    optimizer_steps: int
    files: list[WrittenFile] = field(default_factory=list)


class Trainer(Protocol):
    """Trains one round in its own scratch folder."""

    def train(self, job: TrainJob, progress: Callable[[StepMetrics | str], None]) -> TrainResult:
        """Train, write `output_dir`, and report: each step, and sentences for people that cannot wait for the result's notes.
        Resumes from the last intact checkpoint in `checkpoint_dir`."""
