"""The numbers of every round (`rounds`), from what its stages recorded when they were committed. No table is read.

`RoundSummary` and `COLUMNS` are the one definition of a round's numbers: the terminal, the report, the run's README, the
viewer, exports and trackers show them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfplay.core.outcomes import (
    EvaluatedPart,
    Evaluation,
    ForcedGate,
    PairOutcome,
    PromptsOutcome,
    RoundOutcomes,
    SampleOutcome,
    ScoreOutcome,
    TrainOutcome,
)
from selfplay.inspect.reading import SCHEMA_VERSION
from selfplay.store.run import Store
from selfplay.store.run_state import stages_in

# of an interval that only pages show
_NOT_IN_JSON = ("eval_reward_ci_low", "eval_reward_ci_high")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """One round; None is what it does not have, or not yet.

    `num_prompts` counts the prompts that responses are sampled from for training: None in round 0, whose prompts are the
    held-out ones. `num_truncated` and `num_duplicates` are of the training responses; margins are means over the pairs
    that were ranked; `tokens_per_second` is what the engines sampled in the attempt that ended the stage. `seconds` sums
    what the attempts that committed the stages spent on them.
    """

    round: int
    num_prompts: int | None
    num_responses: int | None
    num_pairs: int | None
    num_kept: int | None
    num_tokens: int | None
    num_truncated: int | None
    num_duplicates: int | None
    explicit_margin_mean: float | None
    implicit_margin_abs_mean: float | None
    length_gap_kept_mean: float | None
    train_reward_mean: float | None
    train_reward_parts: dict[str, float] | None
    eval_reward_mean: float | None
    eval_reward_ci_low: float | None
    eval_reward_ci_high: float | None
    eval_reward_parts: dict[str, EvaluatedPart] | None
    eval_gold_mean: float | None
    eval_gold_ci_low: float | None
    eval_gold_ci_high: float | None
    eval_gold_greedy_mean: float | None
    eval_win_rate_vs_initial: float | None
    eval_win_rate_vs_previous: float | None
    eval_judge: str | None
    eval_num_tokens_mean: float | None
    eval_truncated_fraction: float | None
    eval_distinct_fraction: float | None
    eval_gain_vs_initial: float | None
    eval_gain_vs_initial_ci_low: float | None
    eval_gain_vs_initial_ci_high: float | None
    optimizer_steps: int | None
    skipped_training: bool | None
    gates_forced: list[ForcedGate] | None
    tokens_per_second: float | None
    seconds: float
    stage_seconds: dict[str, float]
    complete: bool

    def value(self, column: Column) -> Any:
        """The value in a column of the table."""
        if column.part is None:
            return getattr(self, column.name)
        found = (getattr(self, column.name) or {}).get(column.part)
        return found.mean if isinstance(found, EvaluatedPart) else found

    def to_json(self) -> dict[str, Any]:
        """A row of `rounds --json`."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _NOT_IN_JSON}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of rounds: the field of `RoundSummary`, its heading (`/` is where a narrow table breaks it, `-/`
    where it breaks a word), and how a value is shown. `part`: a part of a combined reward, which has a column of its own.
    `interval` names the fields of the bounds of a 95 % interval; `brief`:
    short tables have it."""

    name: str
    label: str
    format: Literal["count", "number", "length", "share", "rate", "duration"]
    interval: tuple[str, str] | None = None
    brief: bool = False
    part: str | None = None

    @property
    def heading(self) -> str:
        """The label on one line."""
        return self.label.replace("-/", "").replace("/", " ")


COLUMNS = (
    Column("round", "round", "count", brief=True),
    Column("num_prompts", "prompts", "count", brief=True),
    Column("num_responses", "responses", "count", brief=True),
    Column("num_pairs", "pairs", "count", brief=True),
    Column("num_kept", "kept", "count", brief=True),
    Column("optimizer_steps", "steps", "count"),
    Column("train_reward_mean", "train/reward", "number"),
    Column("eval_reward_mean", "held-out/reward", "number", ("eval_reward_ci_low", "eval_reward_ci_high"), brief=True),
    Column("eval_gold_mean", "held-out/gold", "number", ("eval_gold_ci_low", "eval_gold_ci_high"), brief=True),
    Column("eval_gold_greedy_mean", "gold,/greedy", "number"),
    Column("eval_win_rate_vs_initial", "win rate/vs round 0", "rate", brief=True),
    Column("eval_win_rate_vs_previous", "win rate/vs previous", "rate"),
    Column("eval_num_tokens_mean", "length,/tokens", "length", brief=True),
    Column("eval_truncated_fraction", "trun-/cated", "share"),
    Column("eval_distinct_fraction", "dis-/tinct", "share"),
    Column("seconds", "time", "duration", brief=True),
)


def columns_with_values(rows: Sequence[RoundSummary]) -> list[Column]:
    """The columns that some round has a value for; behind that of a combined reward those of its parts."""
    columns = [one for column in COLUMNS for one in (column, *_of_parts(rows, column))]
    return [column for column in columns if any(row.value(column) is not None for row in rows)]


def _of_parts(rows: Sequence[RoundSummary], column: Column) -> list[Column]:
    """Columns of the parts of a combined reward, by name."""
    field = {"train_reward_mean": "train_reward_parts", "eval_reward_mean": "eval_reward_parts"}.get(column.name)
    if field is None:
        return []
    names = sorted({name for row in rows for name in getattr(row, field) or ()})
    where = column.label.partition("/")[0]
    return [Column(field, f"{where}/{name}", "number", part=name) for name in names]


def round_summaries(store: Store) -> list[RoundSummary]:
    """The rounds that have anything committed, in order. Raises CorruptionError."""
    return [round_summary(store, number) for number in store.rounds()]


def rounds_document(store: Store) -> dict[str, Any]:
    """The document of `rounds --json`."""
    return {"schema_version": SCHEMA_VERSION, "rounds": [row.to_json() for row in round_summaries(store)]}


def round_summary(store: Store, round_number: int, outcomes: RoundOutcomes | None = None) -> RoundSummary:
    """One round; `outcomes` spares reading them again. Raises CorruptionError."""
    found = outcomes if outcomes is not None else store.outcomes(round_number)
    prompts, sample, score = found.get(PromptsOutcome), found.get(SampleOutcome), found.get(ScoreOutcome)
    pair, train, selection = found.get(PairOutcome), found.get(TrainOutcome), found.selection()
    committed = store.committed(round_number)
    seconds = {stage: store.commit_of(round_number, stage).seconds for stage in committed}
    return RoundSummary(
        round=round_number,
        num_prompts=prompts.num_prompts if prompts and round_number else None,
        num_responses=sample.num_responses if sample else None,
        num_pairs=pair.num_pairs if pair else None,
        num_kept=selection.num_kept if selection else None,
        num_tokens=sample.num_tokens if sample else None,
        num_truncated=sample.num_truncated if sample else None,
        num_duplicates=sample.num_duplicates if sample else None,
        explicit_margin_mean=selection.explicit_margin_mean if selection else None,
        implicit_margin_abs_mean=selection.implicit_margin_abs_mean if selection else None,
        length_gap_kept_mean=selection.length_gap_kept_mean if selection else None,
        train_reward_mean=score.reward_mean if score else None,
        train_reward_parts=_trained_parts(score),
        optimizer_steps=train.optimizer_steps if train else None,
        skipped_training=train.skipped if train else None,
        gates_forced=pair.gates_forced if pair else None,
        tokens_per_second=sample.tokens_per_second if sample else None,
        seconds=round(sum(seconds.values()), 3),
        stage_seconds=seconds,
        complete=len(committed) == len(stages_in(store, round_number)),
        **_evaluated(found.evaluation()),
    )


def _trained_parts(score: ScoreOutcome | None) -> dict[str, float] | None:
    if score is None or score.combined is None:
        return None
    return {name: part.mean for name, part in score.combined.reward_parts.items() if part.num_scored}


_EVALUATED = tuple(
    {each.name for each in dataclasses.fields(RoundSummary)} & {each.name for each in dataclasses.fields(Evaluation)}
)


def _evaluated(evaluation: Evaluation | None) -> dict[str, Any]:
    """The fields that a summary takes from the evaluation as they are."""
    return {name: getattr(evaluation, name) if evaluation else None for name in _EVALUATED}
