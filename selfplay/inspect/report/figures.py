"""The plots of a run by round. Each answers a question, which is its heading, and says in a sentence how it is read.

A plot without data is left out: a run without a gold judge has no plot of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfplay.core.format import PAGE
from selfplay.core.magnitudes import finite
from selfplay.core.outcomes import RoundOutcomes, TrainOutcome
from selfplay.core.stages import stages_of
from selfplay.inspect.documents.reward_parts import parts_of_round
from selfplay.inspect.documents.rounds import RoundSummary
from selfplay.inspect.web.charts import Curve, Part, Point, heat_map, line_chart, stacked_bars

Rows = Sequence[RoundSummary]

# curves of a step's numbers: those of the newest rounds
_TRAININGS = 6


@dataclass(frozen=True, slots=True)
class Figure:
    """A question, how to read the answer, and the chart."""

    question: str
    reading: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class _ByRound:
    """A plot of numbers by round. `curves`: label and field of the round's summary, evaluation or selection; `..._mean` is drawn
    with its interval where that is recorded."""

    name: str
    question: str
    reading: str
    y_title: str
    curves: tuple[tuple[str, str], ...]
    baseline: float | None = None


_BY_ROUND = (
    _ByRound(
        "reward", "Does the reward rise on prompts that it never trained on?",
        "Held-out: the policy after the round. Training prompts: the policy before it. Bars are 95 % intervals over prompts.",
        "reward", (
            ("held-out, sampled", "eval_reward_mean"),
            ("held-out, greedy", "eval_reward_greedy_mean"),
            ("training prompts, as sampled", "train_reward_mean"),
        ),
    ),
    _ByRound(
        "gold", "Does a judge that is never trained on agree?",
        "If the reward rises and the gold reward does not, the policy exploits errors of the reward. A policy that only became "
        "more certain raises one of the two lines.",
        "gold reward", (("sampled", "eval_gold_mean"), ("greedy", "eval_gold_greedy_mean")),
    ),
    _ByRound(
        "wins", "How often does it beat the starting policy?",
        "Share of held-out prompts won, a tie counts half; judged by the {judges} reward. Half means no difference.",
        "win rate", (
            ("against round 0", "eval_win_rate_vs_initial"), ("against the previous round", "eval_win_rate_vs_previous"),
        ), 0.5,
    ),
    _ByRound(
        "length", "Do responses get longer?",
        "Mean tokens of the held-out responses. Rewards often favour length: read the responses if both rise together.",
        "tokens", (("tokens", "eval_num_tokens_mean"),),
    ),
    _ByRound(
        "length-gap", "Is the chosen response the longer one?",
        "Mean of the chosen response's tokens less the rejected one's. Above 0, training also teaches length.",
        "tokens", (("kept pairs", "length_gap_kept_mean"), ("all pairs", "length_gap_mean")), 0.0,
    ),
    _ByRound(
        "distinct", "Do responses stay diverse?",
        "Different responses among all held-out ones; distinct-n: different runs of n tokens among all of them, which falls with "
        "length too. A steep fall means that the policy gives the same response to every prompt.",
        "distinct share", (
            ("whole responses", "eval_distinct_fraction"), *((f"distinct-{n}", f"eval_distinct_{n}") for n in (1, 2, 3)),
        ),
    ),
)  # fmt: skip


def run_figures(rows: Rows, outcomes: Mapping[int, RoundOutcomes], overlap: Mapping[str, Any]) -> list[Figure]:
    """The plots over all rounds. `outcomes` is what the stages of each round recorded, `overlap` the document of the prompts
    that rounds have in common."""
    return [*_numbers(rows, outcomes), *_parts(outcomes), *_steps(outcomes), *_overlap(overlap), *_time(rows)]


def _parts(outcomes: Mapping[int, RoundOutcomes]) -> Iterator[Figure]:
    """The parts of a combined reward on the held-out prompts, by round, on one scale."""
    points: dict[str, list[Point]] = {}
    first: dict[str, float] = {}
    for number, found in outcomes.items():
        for part in parts_of_round(found, None):
            if part.eval_mean is not None and part.eval_std:
                start = first.setdefault(part.name, part.eval_mean)
                points.setdefault(part.name, []).append(Point(number, (part.eval_mean - start) / part.eval_std))
    yield from _lines(
        "reward-parts", "Which part of the reward improved?",
        "Held-out means of each part, as the change since the first evaluation in standard deviations of its responses, before "
        "weights. A part may fall while the whole reward rises.",
        [Curve(name, found) for name, found in sorted(points.items())], "change", baseline=0.0,
    )  # fmt: skip


def _numbers(rows: Rows, outcomes: Mapping[int, RoundOutcomes]) -> Iterator[Figure]:
    values: dict[int, dict[str, Any]] = {}
    for row in rows:
        recorded = (outcomes[row.round].selection(), outcomes[row.round].evaluation(), row)
        values[row.round] = {
            name: value
            for record in recorded
            if record is not None
            for name, value in dataclasses.asdict(record).items()
        }
    judges = " and the ".join(sorted({row.eval_judge for row in rows if row.eval_judge}))
    for plot in _BY_ROUND:
        yield from _lines(
            plot.name, plot.question, plot.reading.format(judges=judges),
            [Curve(label, _points(values, field)) for label, field in plot.curves], plot.y_title, baseline=plot.baseline,
        )  # fmt: skip


def _points(values: Mapping[int, Mapping[str, Any]], field: str) -> list[Point]:
    """A field by round; rounds without a value are left out."""
    bounds = [f"{field.removesuffix('_mean')}_ci_{side}" for side in ("low", "high")]
    return [
        Point(number, found[field], *(found.get(bound) for bound in bounds))
        for number, found in values.items()
        if found.get(field) is not None
    ]


def _lines(
    name: str, question: str, reading: str, curves: Sequence[Curve], y_title: str, **options: Any
) -> Iterator[Figure]:
    if any(curve.points for curve in curves):
        chart = line_chart(name, question, curves, y_title=y_title, **{"x_title": "round", **options})
        yield Figure(question, reading, chart)


def _steps(outcomes: Mapping[int, RoundOutcomes]) -> Iterator[Figure]:
    trained = {number: found.get(TrainOutcome) for number, found in list(outcomes.items())[-_TRAININGS:]}
    steps = {number: train.training.steps for number, train in trained.items() if train and train.training}
    yield from _lines(
        "loss", "Does training learn its pairs?",
        "Loss of each optimizer step. DPO starts at 0.693, where policy and reference are the same. If the loss hardly "
        "changes, use more steps or a higher learning rate.",
        [Curve(f"round {number}", [Point(step.step, step.loss) for step in found]) for number, found in steps.items()],
        "loss", x_title="optimizer step",
    )  # fmt: skip
    yield from _lines(
        "accuracy", "How many pairs does the policy rank correctly?",
        "Share of a step's pairs whose chosen response gained more than the rejected one. Near 1 early on, the pairs were easy "
        "or few.",
        [
            Curve(f"round {number}", [Point(step.step, step.rewards_accuracy) for step in found])
            for number, found in steps.items()
        ],
        "accuracy", x_title="optimizer step",
    )  # fmt: skip


def _overlap(overlap: Mapping[str, Any]) -> Iterator[Figure]:
    rounds = overlap["rounds"]
    if len(rounds) < 2:
        return
    names = ["held-out" if number == 0 else str(number) for number in rounds]
    shares = [
        [both / count if count else None for both in shared]
        for shared, count in zip(overlap["shared"], overlap["num_prompts"], strict=True)
    ]
    yield Figure(
        "Does each round see new prompts?",
        "Share of the row's prompts that the column has too. If training rounds share prompts with the held-out ones, "
        "the evaluation says little.",
        heat_map("overlap", "Does each round see new prompts?", names, names, shares,
                 row_title="round", column_title="also in round"),
    )  # fmt: skip


def _time(rows: Rows) -> Iterator[Figure]:
    found = [row for row in rows if row.stage_seconds]
    if not any(row.seconds for row in found):
        return
    most = max(row.seconds for row in found)
    unit, name = (3600.0, "hours") if most > 2 * 3600 else (60.0, "minutes") if most > 300 else (1.0, "seconds")
    parts = [Part(stage, [row.stage_seconds.get(stage, 0) / unit for row in found]) for stage in stages_of(1)]
    chart = stacked_bars(
        "time", "Where does the time go?", [str(row.round) for row in found], parts, row_title="round", x_title=name,
        show=lambda value: PAGE.duration(value * unit),
    )  # fmt: skip
    yield Figure("Where does the time go?", "Time of each stage by round, of the attempts that committed it.", chart)


def facts_of(rows: Rows) -> list[tuple[str, str, str]]:
    """What a reader wants first: name, value, and a line below it. Of the last round that was evaluated."""
    found = [row for row in rows if row.round and row.eval_reward_mean is not None]
    facts: list[tuple[str, str, str]] = []
    first = next((row for row in rows if row.round == 0), None)
    if found and first is not None:
        last = found[-1]
        for name, key in (("held-out gold reward", "eval_gold_mean"), ("held-out reward", "eval_reward_mean")):
            before, after = getattr(first, key), getattr(last, key)
            if after is not None and before is not None:
                gained = f"{PAGE.signed(finite(after - before))} over round 0"
                facts.append((name, f"{PAGE.number(before)} \u2192 {PAGE.number(after)}", gained))
        if last.eval_win_rate_vs_initial is not None:
            facts.append(
                ("wins over round 0", PAGE.percent(last.eval_win_rate_vs_initial), f"by {last.eval_judge} reward")
            )
        if first.eval_num_tokens_mean is not None and last.eval_num_tokens_mean is not None:
            tokens = f"{first.eval_num_tokens_mean:.1f} \u2192 {last.eval_num_tokens_mean:.1f}"
            facts.append(("tokens a response", tokens, "held-out, sampled"))
    kept, pairs = (sum(getattr(row, key) or 0 for row in rows) for key in ("num_kept", "num_pairs"))
    if pairs:
        facts.append(("pairs kept", PAGE.count(kept), f"of {PAGE.count(pairs)}"))
    facts.append(("time", PAGE.duration(sum(row.seconds for row in rows)), "of all committed stages"))
    return facts
