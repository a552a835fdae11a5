"""The table of stages: what each stage is called, reads, writes and takes on disk, and where its code is.

Everything that lists stages derives from it: the layout, the loop, the disk estimate, verification and the reports. To add a
stage, add its record here and its outcome in core/outcomes.py, and write the file that `function` names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from selfplay.core.outcomes import Outcome

# Which round's commit an input is, seen from round N:
#   same       round N
#   first      round 0
#   previous   round N-1
#   data       every round whose pairs round N trains on (`training.data`)
#   earlier    those of `data` before round N
#   sampler    the training of the policy that round N samples from: round N-1; none in round 1
#   evaluated  the training of the policy after round N: round N; none in round 0
#   trained    the training of the policy that round N trains; none where that is the starting policy
#   reference  the training of the reference of the loss; none where that is the starting policy or there is none
Source = Literal["same", "first", "previous", "data", "earlier", "sampler", "evaluated", "trained", "reference"]

# How an input is read:
#   pool    as a whole: its stage is committed before this one begins
#   shard   shard by shard: this stage may begin with the first shards, while the stage of the same round still makes the others
Edge = Literal["pool", "shard"]


@dataclass(frozen=True, slots=True)
class Input:
    """A stage that another one reads. `edge` is that of the input of the same round; inputs of other rounds are committed."""

    stage: str
    source: Source
    edge: Edge = "pool"


@dataclass(frozen=True, slots=True)
class DiskSizes:
    """What an estimate of disk space counts with; bytes of rows are means, those of responses upper bounds."""

    num_prompts: int
    num_responses: int
    num_evaluation_prompts: int
    num_evaluation_responses: int
    prompt_bytes: int
    evaluation_prompt_bytes: int
    response_bytes: int
    row_bytes: int
    policy_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `outcome_name` is its class in core/outcomes.py, `record` that of a row of its committed table in
    core/records.py (None: it has none; parts of a combined reward add columns). They are names: to make the classes takes long,
    and who only lists stages needs none. `unit` is what its progress counts. `disk_bytes` estimates what it writes in a round.
    `function` is "MODULE:NAME" of what runs it. `role`: the workers that it asks (None: it works in the driver). `in_round_0`:
    round 0, the starting policy, has it too."""

    name: str
    outcome_name: str
    record: str | None
    unit: str
    disk_bytes: Callable[[DiskSizes, int], int]
    function: str
    inputs: tuple[Input, ...] = ()
    role: str | None = None
    in_round_0: bool = False

    @property
    def schema(self) -> pa.Schema | None:
        """The Arrow schema of the committed table, without parts of a combined reward."""
        from selfplay.core import records

        return None if self.record is None else records.schema(getattr(records, self.record))

    @property
    def outcome(self) -> type[Outcome]:
        """The class of its outcome."""
        from selfplay.core import outcomes

        found: type[Outcome] = getattr(outcomes, self.outcome_name)
        return found


# Names of the hidden tables: each is a folder inside the folder of its stage.
MIXED = ".mixed"  # responses of the second model (`sampling.mix`)
GOLD = ".gold"  # rewards of the gold judge
PARTS = ".parts"  # rewards of each part of a combined reward: `.parts/NAME`
CANDIDATES = ".pairs"  # candidate pairs, beside the `unused` table of stage *pair*
REFERENCE = ".reference"  # log-probs under the reference; in *train* those of kept pairs
CHECKED = ".checked"  # the model's log-probs of some responses whose log-probs the engine computed
ENGINES = ".engines"  # rewards of some responses by two engines; of a part of a combined reward `.engines/NAME`
POLICY = ".policy"  # in *train*: the model's log-probs of kept pairs that were ranked by the engine's
ALONE = ".alone"  # log-probs of chosen responses without their prompt
ASKED = ".asked"  # the policy's "yes" about prompt and chosen response
EMBEDDINGS = ".embeddings"  # mean hidden states; the width is the policy's
OTHERS = ".others"  # log-probs of the policy's other responses
READ = ".read"  # what the metric read that the pairs table has no column for: pair_id, the columns by name, and `group`

STAGES = (
    Stage(
        "prompts", "PromptsOutcome", "Prompt", "prompts",
        lambda sizes, number: sizes.num_prompts * sizes.prompt_bytes if number else (
            sizes.num_evaluation_prompts * sizes.evaluation_prompt_bytes
        ),
        "selfplay.run.stages.prompts:run", in_round_0=True,
    ),
    Stage(
        "sample", "SampleOutcome", "Response", "prompts",
        lambda sizes, _: sizes.num_responses * sizes.response_bytes,
        "selfplay.run.stages.sample:run",
        (Input("prompts", "same"), Input("train", "sampler")), role="sampler",
    ),
    Stage(
        "score", "ScoreOutcome", "Reward", "responses",
        lambda sizes, _: sizes.num_responses * sizes.row_bytes,
        "selfplay.run.stages.score:run",
        (Input("prompts", "same"), Input("sample", "same", "shard")), role="scorer",
    ),
    Stage(
        "pair", "PairOutcome", "Unused", "responses",
        lambda sizes, _: sizes.num_responses * sizes.row_bytes,
        "selfplay.run.stages.pair:run",
        (Input("sample", "same", "shard"), Input("score", "same", "shard")),
    ),
    Stage(
        "logprobs", "LogprobsOutcome", "Logprobs", "responses",
        lambda sizes, _: sizes.num_responses * sizes.row_bytes,
        "selfplay.run.stages.logprobs:run",
        (
            Input("prompts", "data"), Input("sample", "data"), Input("select", "earlier"),
            Input("pair", "same"), Input("train", "trained"), Input("train", "reference"),
        ),
        role="logprobs",
    ),
    Stage(
        "select", "SelectOutcome", "Pair", "pairs",
        # a pair holds its prompt and two responses as text
        lambda sizes, _: sizes.num_prompts * (sizes.prompt_bytes + 2 * sizes.response_bytes),
        "selfplay.run.stages.select:run",
        tuple(Input(stage, "same") for stage in ("prompts", "sample", "pair", "logprobs")),
    ),
    Stage(
        "train", "TrainOutcome", None, "steps",
        lambda sizes, _: sizes.policy_bytes + sizes.checkpoint_bytes,
        "selfplay.run.stages.train:run",
        (
            Input("prompts", "data"), Input("sample", "data"), Input("select", "data"),
            Input("logprobs", "same"), Input("train", "trained"), Input("train", "reference"),
        ),
        role="trainer",
    ),
    Stage(
        "evaluate", "EvaluateOutcome", "EvaluationResponse", "prompts",
        lambda sizes, _: sizes.num_evaluation_responses * sizes.response_bytes,
        "selfplay.run.stages.evaluate:run",
        (
            Input("prompts", "first"), Input("train", "evaluated"), Input("evaluate", "first"),
            Input("evaluate", "previous"),
        ),
        role="sampler",
        in_round_0=True,
    ),
)  # fmt: skip

STAGE_NAMES = tuple(stage.name for stage in STAGES)
LAST_STAGE = STAGE_NAMES[-1]
_BY_NAME = {stage.name: stage for stage in STAGES}
_ROUND_0 = tuple(stage.name for stage in STAGES if stage.in_round_0)


def stage_named(name: str) -> Stage:
    """The stage of this name."""
    return _BY_NAME[name]


def shard_inputs(name: str) -> tuple[str, ...]:
    """The stages of its own round that a stage reads shard by shard."""
    return tuple(given.stage for given in stage_named(name).inputs if given.edge == "shard")


def stages_of(round_number: int) -> tuple[str, ...]:
    """The names of a round's stages, in order. Round 0 is the starting policy: it has only an evaluation."""
    return STAGE_NAMES if round_number else _ROUND_0
