"""The plots of a run by round. Each answers a question, which is its heading, and says in a sentence how it is read.

A plot without data is left out: a run without a gold judge has no plot of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfplay.core.format import PAGE
from selfplay.inspect.web.charts import Curve, Part, Point, heat_map, line_chart, stacked_bars
from selfplay.store.run_state import stages_of

Row = Mapping[str, Any]

# curves of a step's numbers: those of the newest rounds
_TRAININGS = 6


@dataclass(frozen=True, slots=True)
class Figure:
    """A question, how to read the answer, and the chart."""

    question: str
    reading: str
    chart: Markup


def run_figures(rows: Sequence[Row], metrics: Mapping[int, Mapping[str, Row]], overlap: Row) -> list[Figure]:
    """The plots over all rounds. `rows` are those of `rounds`, `metrics` what each round's stages said (round -> stage ->
    metrics), `overlap` the document of the prompts that rounds have in common."""
    by_round = (
        _reward(rows, metrics), _gold(rows), _wins(rows), _length(rows), _length_gap(metrics), _distinct(metrics),
        _loss(metrics), _accuracy(metrics), _overlap(overlap), _time(rows),
    )  # fmt: skip
    return [figure for figures in by_round for figure in figures]


def _curve(name: str, rows: Sequence[Row], key: str, low: str = "", high: str = "") -> Curve:
    found = [row for row in rows if row.get(key) is not None]
    return Curve(name, [Point(row["round"], row[key], row.get(low), row.get(high)) for row in found])


def _evaluations(metrics: Mapping[int, Mapping[str, Row]]) -> list[Row]:
    return [{"round": number, **stages["evaluate"]} for number, stages in metrics.items() if "evaluate" in stages]


def _lines(
    name: str, question: str, reading: str, curves: Sequence[Curve], y_title: str, **options: Any
) -> Iterator[Figure]:
    if any(curve.points for curve in curves):
        chart = line_chart(name, question, curves, y_title=y_title, **{"x_title": "round", **options})
        yield Figure(question, reading, chart)


def _reward(rows: Sequence[Row], metrics: Mapping[int, Mapping[str, Row]]) -> Iterator[Figure]:
    held_out = _evaluations(metrics)
    curves = [
        _curve("held-out, sampled", held_out, "eval_reward_mean", "eval_reward_ci_low", "eval_reward_ci_high"),
        _curve("held-out, greedy", held_out, "eval_reward_greedy_mean"),
        _curve("training prompts, as sampled", rows, "train_reward_mean"),
    ]
    yield from _lines(
        "reward", "Does the reward rise on prompts that it never trained on?",
        "Held-out: the policy after the round. Training prompts: the policy before it. Bars are 95 % intervals over prompts.",
        curves, "reward",
    )  # fmt: skip


def _gold(rows: Sequence[Row]) -> Iterator[Figure]:
    curves = [
        _curve("sampled", rows, "eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high"),
        _curve("greedy", rows, "eval_gold_greedy_mean"),
    ]
    yield from _lines(
        "gold", "Does a judge that is never trained on agree?",
        "If the reward rises and the gold reward does not, the policy learns the reward's faults. A policy that only grew surer "
        "of itself raises one of the two lines.",
        curves, "gold reward",
    )  # fmt: skip


def _wins(rows: Sequence[Row]) -> Iterator[Figure]:
    curves = [
        _curve("against round 0", rows, "eval_win_rate_vs_initial"),
        _curve("against the round before", rows, "eval_win_rate_vs_previous"),
    ]
    judges = sorted({row["eval_judge"] for row in rows if row.get("eval_judge")})
    yield from _lines(
        "wins", "How often does it beat where it started?",
        f"Share of held-out prompts won, a tie counts half; judged by the {' and the '.join(judges)} reward. Half is no better.",
        curves, "win rate", baseline=0.5,
    )  # fmt: skip


def _length(rows: Sequence[Row]) -> Iterator[Figure]:
    yield from _lines(
        "length", "Does it learn to be long?",
        "Mean tokens of the held-out responses. Rewards often favour length: a rise together with the reward wants a look.",
        [_curve("tokens", rows, "eval_num_tokens_mean")], "tokens",
    )  # fmt: skip


def _length_gap(metrics: Mapping[int, Mapping[str, Row]]) -> Iterator[Figure]:
    rows = [{"round": number, **stages["select"]} for number, stages in metrics.items() if "select" in stages]
    curves = [_curve("kept pairs", rows, "length_gap_kept_mean"), _curve("all pairs", rows, "length_gap_mean")]
    yield from _lines(
        "length-gap", "Is the chosen response the longer one?",
        "Mean of the chosen response's tokens less the rejected one's. Above 0 training also teaches length.",
        curves, "tokens", baseline=0.0,
    )  # fmt: skip


def _distinct(metrics: Mapping[int, Mapping[str, Row]]) -> Iterator[Figure]:
    rows = _evaluations(metrics)
    curves = [
        _curve("whole responses", rows, "eval_distinct_fraction"),
        *(_curve(f"distinct-{n}", rows, f"eval_distinct_{n}") for n in (1, 2, 3)),
    ]
    yield from _lines(
        "distinct", "Do its responses stay different from each other?",
        "Different responses among all held-out ones; distinct-n: different runs of n tokens among all of them, which falls with "
        "length too. A steep fall is a policy that says the same to everybody.",
        curves, "distinct share",
    )  # fmt: skip


def _steps(metrics: Mapping[int, Mapping[str, Row]], key: str) -> list[Curve]:
    return [
        Curve(f"round {number}", [Point(step["step"], step[key]) for step in stages["train"].get("steps") or ()])
        for number, stages in list(metrics.items())[-_TRAININGS:]
        if "train" in stages
    ]


def _loss(metrics: Mapping[int, Mapping[str, Row]]) -> Iterator[Figure]:
    yield from _lines(
        "loss", "Does training learn its pairs?",
        "Loss of each optimizer step. DPO starts at 0.693, where policy and reference are the same; a loss that hardly moves "
        "asks for more steps or a higher rate.",
        _steps(metrics, "loss"), "loss", x_title="optimizer step",
    )  # fmt: skip


def _accuracy(metrics: Mapping[int, Mapping[str, Row]]) -> Iterator[Figure]:
    yield from _lines(
        "accuracy", "How many pairs does it rank as it should?",
        "Share of a step's pairs whose chosen response gained more than the rejected one. Near 1 early on, the pairs were easy "
        "or few.",
        _steps(metrics, "rewards_accuracy"), "accuracy", x_title="optimizer step",
    )  # fmt: skip


def _overlap(overlap: Row) -> Iterator[Figure]:
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
        "Share of the row's prompts that the column has too. Training rounds that share prompts with the held-out ones make "
        "the evaluation worth little.",
        heat_map("overlap", "Does each round see new prompts?", names, names, shares,
                 row_title="round", column_title="also in round"),
    )  # fmt: skip


def _time(rows: Sequence[Row]) -> Iterator[Figure]:
    found = [row for row in rows if row["stage_seconds"]]
    if not any(row["seconds"] for row in found):
        return
    most = max(row["seconds"] for row in found)
    unit, name = (3600.0, "hours") if most > 2 * 3600 else (60.0, "minutes") if most > 300 else (1.0, "seconds")
    parts = [Part(stage, [(row["stage_seconds"].get(stage) or 0) / unit for row in found]) for stage in stages_of(1)]
    chart = stacked_bars(
        "time", "Where does the time go?", [str(row["round"]) for row in found], parts, row_title="round", x_title=name,
        show=lambda value: PAGE.duration(value * unit),
    )  # fmt: skip
    yield Figure("Where does the time go?", "Time of each stage by round, of the attempts that committed it.", chart)


def facts_of(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What a reader wants first: name, value, and a line below it. Of the last round that was evaluated."""
    found = [row for row in rows if row["round"] and row["eval_reward_mean"] is not None]
    facts: list[tuple[str, str, str]] = []
    first = next((row for row in rows if row["round"] == 0), None)
    if found and first is not None:
        last = found[-1]
        for name, key in (("held-out gold reward", "eval_gold_mean"), ("held-out reward", "eval_reward_mean")):
            if last[key] is not None and first[key] is not None:
                gained = f"{PAGE.signed(last[key] - first[key])} over round 0"
                facts.append((name, f"{PAGE.number(first[key])} \u2192 {PAGE.number(last[key])}", gained))
        if last["eval_win_rate_vs_initial"] is not None:
            facts.append(
                ("wins over round 0", PAGE.percent(last["eval_win_rate_vs_initial"]), f"by {last['eval_judge']} reward")
            )
        if first["eval_num_tokens_mean"] is not None and last["eval_num_tokens_mean"] is not None:
            tokens = f"{first['eval_num_tokens_mean']:.1f} \u2192 {last['eval_num_tokens_mean']:.1f}"
            facts.append(("tokens a response", tokens, "held-out, sampled"))
    kept, pairs = (sum(row[key] or 0 for row in rows) for key in ("num_kept", "num_pairs"))
    if pairs:
        facts.append(("pairs kept", PAGE.count(kept), f"of {PAGE.count(pairs)}"))
    facts.append(("time", PAGE.duration(sum(row["seconds"] for row in rows)), "of all committed stages"))
    return facts
