"""What a selection has to compute before it can rank: what the metric reads, minus what the dataset has.

Each input that is neither there nor can be computed is named, with the ways to get it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.selection.metrics import Metric, columns_needed, how_to_get
from selfplay.selection.metrics.inputs import MEAN_LOGPS, NUM_TOKENS, POLICY_LOGPS, REFERENCE_LOGPS, REWARDS, made_of

ALONE, YES, EMBEDDING = "policy_logp_chosen_alone", "ask_llm_yes", "embedding"
PROMPT_REWARDS = ("prompt_reward_mean", "prompt_reward_std")

# What a dataset of scored responses gives to the pairs that are built of it.
_OF_RESPONSES = (*REWARDS, *PROMPT_REWARDS)

_COLUMNS = "or name the columns with --columns {0}=COLUMN,{1}=COLUMN"
_MARGIN = ", or their margin with --columns {0}=COLUMN"
_WAYS = {
    **dict.fromkeys(
        REWARDS,
        f"--reward-model MODEL or --reward-function module:function, {_COLUMNS.format(*REWARDS)}"
        + _MARGIN.format("explicit_margin"),
    ),
    **dict.fromkeys(
        POLICY_LOGPS,
        f"--policy MODEL, {_COLUMNS.format(*POLICY_LOGPS)} (sums; means per token are {MEAN_LOGPS[0]} and {MEAN_LOGPS[1]})"
        + _MARGIN.format("implicit_margin"),
    ),
    **dict.fromkeys(NUM_TOKENS, f"--policy MODEL (its tokenizer counts), {_COLUMNS.format(*NUM_TOKENS)}"),
    **dict.fromkeys(
        REFERENCE_LOGPS, f"--reference MODEL (another model than the policy), {_COLUMNS.format(*REFERENCE_LOGPS)}"
    ),
    ALONE: f"--policy MODEL, or --columns {ALONE}=COLUMN",
    YES: f"--policy MODEL, or --columns {YES}=COLUMN",
    EMBEDDING: "--policy MODEL or --embedding-model MODEL",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What is to be computed. `tokens`: only the lengths, without a forward pass (where `policy_logps` is false).
    `embedding` is of the policy's hidden states, `other_embedding` of a model of its own."""

    rewards: bool = False
    tokens: bool = False
    policy_logps: bool = False
    reference_logps: bool = False
    alone: bool = False
    yes: bool = False
    embedding: bool = False
    other_embedding: bool = False

    @property
    def anything(self) -> bool:
        """Whether anything is to be computed at all."""
        return any((self.rewards, self.rendered, self.yes, self.other_embedding))

    @property
    def rendered(self) -> bool:
        """Whether the policy's token ids of prompts and responses are needed."""
        return any((self.tokens, self.policy_logps, self.reference_logps, self.alone, self.embedding))

    def names(self) -> list[str]:
        """The inputs to compute, by name."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that need workers."""
        embedding = self.embedding or self.other_embedding
        passes = any((self.policy_logps, self.reference_logps, self.alone, self.yes, embedding))
        return (*(("score",) if self.rewards else ()), *(("logprobs",) if passes else ()))


def find_needs(
    settings: SelectSettings, metric: Metric, there: Collection[str], *, has_text: bool, several: str | None = None
) -> Needs:
    """What is to be computed of what the metric reads (and of what a model was given for), given the columns that are
    `there`. `several`: the column of lists of responses that stands beside ready-made pairs. Raises ConfigError for an
    input that stays missing, and for a model that would do nothing."""
    there = set(there)
    wanted = set(columns_needed(metric, settings.implicit_margin)) - {"pair_id"}
    if "explicit_margin" in there and not set(REWARDS) & set(metric.inputs):
        wanted -= set(REWARDS)
    margin = set(made_of("implicit_margin", settings.implicit_margin))
    has_margin = settings.implicit_margin == "simpo" and there.issuperset(MEAN_LOGPS)
    # a margin that is given is ranked by, unless a reference is: its log-probs make the margin
    given = (has_margin or "implicit_margin" in there) and settings.reference is None
    if given and not margin & set(metric.inputs):
        wanted -= margin
    rewards = settings.has_rewards
    policy, reference = settings.policy is not None, settings.reference is not None
    other = settings.embedding_model is not None
    embedding = EMBEDDING in wanted and EMBEDDING not in there
    reads_reference = bool(wanted & set(REFERENCE_LOGPS))
    found = Needs(
        rewards=rewards and not there.issuperset(REWARDS),
        tokens=policy and not there.issuperset(NUM_TOKENS),
        policy_logps=policy and not there.issuperset(POLICY_LOGPS),
        reference_logps=reference and reads_reference and not there.issuperset(REFERENCE_LOGPS),
        alone=policy and ALONE in wanted and ALONE not in there,
        yes=policy and YES in wanted and YES not in there,
        embedding=policy and embedding and not other,
        other_embedding=other and embedding,
    )
    _refuse_idle(settings, found, reads_reference, EMBEDDING in wanted, "implicit_margin" in there)
    made = {
        *(REWARDS if found.rewards else ()),
        *(NUM_TOKENS if found.tokens else ()),
        *(POLICY_LOGPS if found.policy_logps else ()),
        *(REFERENCE_LOGPS if found.reference_logps else ()),
        *((ALONE,) if found.alone else ()),
        *((YES,) if found.yes else ()),
        *((EMBEDDING,) if found.embedding or found.other_embedding else ()),
    }
    if (there | made).issuperset(REWARDS):
        made |= set(PROMPT_REWARDS)
    missing = [name for name in (*wanted,) if name not in there | made]
    if missing:
        raise _missing(metric, sorted(missing), several)
    if found.anything and not has_text:
        raise ConfigError(
            "this dataset is a table of numbers: nothing can be computed without texts",
            "Leave the models out and give the columns that the metric reads, or a dataset with prompt, chosen and rejected.",
        )
    return found


def _refuse_idle(
    settings: SelectSettings, needs: Needs, reads_reference: bool, reads_embedding: bool, has_margin: bool
) -> None:
    if settings.has_rewards and not needs.rewards:
        given = next(
            name for name in ("reward_model", "reward_function", "reward") if getattr(settings, name) is not None
        )
        raise ConfigError(
            f"{given} does nothing: the dataset has its rewards already",
            "Leave it out to rank by those, or give --columns reward_chosen=,reward_rejected= to compute them.",
        )
    if settings.reference is not None and not reads_reference:
        named = " to rank by the implicit margins that the dataset has" if has_margin else ""
        other = ", or give --implicit-margin dpo --beta 0.1" if settings.implicit_margin == "simpo" else ""
        raise ConfigError(
            f"reference does nothing: metric {settings.metric!r} with implicit_margin: "
            f"{settings.implicit_margin} reads no reference log-probs",
            f"Leave it out{named}{other}.",
        )
    if settings.reference is not None and not needs.reference_logps:
        raise ConfigError(
            "reference does nothing: the dataset has reference log-probs already", "Leave it out to use those."
        )
    if settings.embedding_model is not None and not reads_embedding:
        raise ConfigError(
            f"embedding_model does nothing: metric {settings.metric!r} reads no embeddings", "Leave it out."
        )
    if settings.embedding_model is not None and not needs.other_embedding:
        raise ConfigError(
            "embedding_model does nothing: the dataset has its embeddings already",
            "Leave it out to use those, or give --columns embedding= to compute them.",
        )
    passes = (needs.tokens, needs.policy_logps, needs.reference_logps, needs.alone, needs.yes, needs.embedding)
    if settings.policy is not None and not (any(passes) or settings.max_length is not None):
        raise ConfigError(
            "policy does nothing: the dataset has log-probs and token counts already",
            "Leave it out to rank by those, or give --columns policy_logp_chosen=,policy_logp_rejected= to compute them.",
        )


def _missing(metric: Metric, missing: list[str], several: str | None) -> ConfigError:
    # columns that are had in the same way are named together
    ways: dict[str, list[str]] = {}
    for name in missing:
        ways.setdefault(_WAYS.get(name, how_to_get(name)), []).append(name)
    return ConfigError(
        f"metric {metric.name!r} needs {', '.join(missing)}, which this dataset does not have",
        "\n     ".join(
            [
                *(f"{', '.join(names)}: {way}" for way, names in ways.items()),
                *(
                    [f"or build pairs of the responses in {several!r}: --pairs best_worst"]
                    if several is not None and not set(missing).isdisjoint(_OF_RESPONSES)
                    else []
                ),
            ]
        ),
    )
