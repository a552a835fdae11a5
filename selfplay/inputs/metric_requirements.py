"""What ranks the pairs of a run: its metric, checked before anything is sampled, and what has to be made for it.

A metric reads columns. Most of them any run has; some *logprobs* makes only when the metric asks for them; a person's own
metric may also read number columns of the prompts. What is none of these a run cannot make: that is said at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selfplay.config.schema import Config
from selfplay.core.errors import ConfigError
from selfplay.core.losses import LOSSES
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.metric_prompts import AskLlm, start_token_id
from selfplay.inputs.prompts import PromptSource
from selfplay.inputs.user_code.metrics import load_metric
from selfplay.selection.metrics import Metric, columns_needed, find_metric, how_to_get
from selfplay.selection.metrics.inputs import NUM_TOKENS, POLICY_LOGPS, REFERENCE_LOGPS, REWARDS

ALONE, ASKED, EMBEDDING, ENTROPY = "policy_logp_chosen_alone", "ask_llm_yes", "embedding", "prompt_entropy"
# What stage *logprobs* makes for a metric that reads it.
MADE_FOR_METRICS = frozenset({ALONE, ASKED, EMBEDDING, ENTROPY})
# What stage *select* has of every pair.
OF_EVERY_PAIR = frozenset(
    {"pair_id", *REWARDS, *NUM_TOKENS, *POLICY_LOGPS, "num_prompt_tokens", "prompt_reward_mean", "prompt_reward_std"}
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The metric of a run, and the one of its first round where that is another.

    `implicit_margin` is `simpo` or `dpo`; `prompt_columns` are the number columns of the prompts that the metric reads.
    `given` are columns that a dataset has already, so that nobody has to make them.
    """

    metric: Metric
    first: Metric
    implicit_margin: str
    prompt_columns: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()

    def of_round(self, round_number: int) -> Metric:
        """What ranks in a round (from 1)."""
        return self.first if round_number == 1 else self.metric

    def made_for(self, round_number: int) -> frozenset[str]:
        """What *logprobs* has to make for the metric of a round, beside the log-probs of the paired responses."""
        return MADE_FOR_METRICS & {*columns_needed(self.of_round(round_number), self.implicit_margin)} - self.given


def resolve_ranking(
    config: Config, search_path: Path, prompts: PromptSource, renderer: ChatRenderer, context_length: int
) -> Ranking:
    """The metric of a run, all of its inputs accounted for. Raises ConfigError for what can never rank."""
    settings = config.selection
    with contextlib.redirect_stdout(sys.stderr):  # importing the user's file may print; stdout is for data
        metric = load_metric(settings.metric, search_path)
    metric.check_options(settings.options)
    first = find_metric(settings.first_round_metric) if settings.first_round_metric else metric
    _check_reference(config, metric, first)
    prompt_columns: list[str] = []
    for rule in dict.fromkeys((metric, first)):
        prompt_columns += _check_inputs(config, rule, prompts)
    ranking = Ranking(metric, first, settings.implicit_margin, tuple(dict.fromkeys(prompt_columns)))
    made = ranking.made_for(1) | ranking.made_for(2)
    if ASKED in made:
        AskLlm(renderer, context_length)
    if ALONE in made:
        start_token_id(renderer.tokenizer)
    if settings.group_column is not None:
        _check_group(settings.group_column, config, prompts)
    return ranking


def prompt_number(columns: Mapping[str, object], name: str) -> float | None:
    """A prompt's number (a bool is one); None where its row has none. Raises ValueError for anything else."""
    value = columns.get(name)
    if value is None:
        return None
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _check_inputs(config: Config, metric: Metric, prompts: PromptSource) -> list[str]:
    """The columns of the prompts that the metric reads. Raises ConfigError for what a run does not have."""
    known = OF_EVERY_PAIR | MADE_FOR_METRICS | {*REFERENCE_LOGPS}
    others = [name for name in columns_needed(metric, config.selection.implicit_margin) if name not in known]
    if metric.where is None:
        missing = others
    else:
        missing = [name for name in others if name not in prompts.columns or name == config.prompts.column]
    if missing:
        ways = " ".join(dict.fromkeys(how_to_get(name) for name in missing))
        of_prompts = "" if metric.where is None else f", and {config.prompts.source} has no such column either"
        raise ConfigError(
            f"metric {metric.name!r} reads {', '.join(missing)}, which a run does not make{of_prompts}",
            f"{ways} `selfplay select` can read such columns from a dataset; in a run choose another metric.",
        )
    for name in others:
        _check_numbers(name, config, prompts)
    return others


def _check_numbers(name: str, config: Config, prompts: PromptSource) -> None:
    found = 0
    for prompt in prompts.prompts:
        try:
            found += prompt_number(json.loads(prompt.columns_json), name) is not None
        except ValueError as error:
            raise ConfigError(
                f"metric {config.selection.metric!r} reads the prompts' column {name}: in {prompt.file}, row {prompt.row}, "
                f"{error}",
                "A column that a metric reads holds numbers (or nothing, where a pair cannot be ranked).",
            ) from None
    if not found:
        raise ConfigError(
            f"metric {config.selection.metric!r} reads the prompts' column {name}: {config.prompts.source} has no number in it",
            "Fill the column, or choose another metric.",
        )


def _check_group(name: str, config: Config, prompts: PromptSource) -> None:
    own = [column for column in prompts.columns if column != config.prompts.column]
    if name not in own:
        raise ConfigError(
            f"selection.group_column is {name!r}; the prompts of {config.prompts.source} have {', '.join(own) or 'no columns'}",
            "Name a column of the prompts, such as topic or source.",
        )


def _check_reference(config: Config, metric: Metric, first: Metric) -> None:
    """Raise ConfigError where a metric compares the policy with a reference that is absent or the policy itself. (The config
    sees to `implicit_margin: dpo` by itself.)"""
    settings, training = config.selection, config.training
    if settings.implicit_margin == "dpo":
        _refuse_reference(first, "dpo_implicit_margin")
        return
    if not _reads_reference(metric, REFERENCE_LOGPS):
        if settings.first_round_metric is not None:
            raise ConfigError(
                f"selection.first_round_metric does nothing: {metric.name!r} reads no reference and also ranks in round 1",
                "Leave it out.",
            )
        return
    if LOSSES[training.loss].reference_free:
        raise ConfigError(
            f"metric {metric.name!r} reads reference log-probs, and training.loss: {training.loss} has no reference",
            "Choose another metric, or training.loss: dpo.",
        )
    if training.reference == "previous" or training.start == "initial":
        raise ConfigError(
            f"metric {metric.name!r} compares the policy with the reference, and with training.reference: {training.reference} "
            f"and training.start: {training.start} the two are the same weights",
            "Set training.reference: initial and training.start: previous, or choose another metric.",
        )
    if settings.first_round_metric is None:
        raise ConfigError(
            f"metric {metric.name!r} does not rank in round 1, where policy and reference are both the initial policy",
            "Set selection.first_round_metric (explicit_margin, random, ...).",
        )
    _refuse_reference(first, *REFERENCE_LOGPS)


def _refuse_reference(first: Metric, *names: str) -> None:
    if _reads_reference(first, names):
        raise ConfigError(
            f"selection.first_round_metric is {first.name!r}, which compares the policy with the reference: in round 1 both are "
            "the initial policy",
            "Choose one that reads no reference (explicit_margin, random, ...).",
        )


def _reads_reference(metric: Metric, names: Iterable[str]) -> bool:
    read = {*metric.inputs, *columns_needed(metric, "simpo")}
    return not read.isdisjoint(names)
