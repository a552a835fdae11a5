"""`selfplay show RUN ROUND`: one round as a whole, warnings first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Round, Run
from selfplay.cli.selection_view import diagnostic_lines, warning_lines
from selfplay.core.escape import escape_terminal
from selfplay.core.format import duration, number
from selfplay.core.terminal import bar, table, write_document
from selfplay.core.timing import PARTS

_TRAINING = (
    "optimizer_steps", "num_pairs", "first_loss", "expected_first_loss", "checked_pairs", "logp_error_mean",
    "logp_error_max", "update_norm", "changed_fraction", "resumed_from_step",
)  # fmt: skip
_EVALUATION = (
    "eval_num_prompts", "eval_judge", "eval_reward_mean", "eval_reward_greedy_mean",
    "eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high", "eval_gold_greedy_mean",
    "eval_win_rate_vs_initial", "eval_win_rate_vs_previous", "eval_gain_vs_initial", "eval_gain_vs_previous",
    "eval_num_tokens_mean", "eval_truncated_fraction", "eval_distinct_fraction", "eval_distinct_2",
    "eval_num_unscored",
)  # fmt: skip
_SELECTION = (
    "metric", "implicit_margin", "weight", "beta", "standardize", "keep", "effective_beta", "cut_value", "num_ranked", "num_kept",
    "explicit_margin_mean", "explicit_margin_std", "implicit_margin_abs_mean", "implicit_margin_abs_std",
    "length_gap_mean", "length_gap_kept_mean",
)  # fmt: skip

_WIDTH = 40
# the letter that a part is drawn with
_LETTERS = {"waiting": ".", "loading": "l", "computing": "#", "writing": "w", "committing": "c"}
_LAST_STEP = ("loss", "rewards_accuracy", "rewards_margin", "grad_norm")


By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="COLUMN",
        help="Show how the kept pairs are distributed over the values of this column of the prompts.",
    ),
]

Every = Annotated[
    bool, typer.Option("--all", help="Read every row of a round of more than a million pairs, instead of a sample.")
]


Timing = Annotated[
    bool, typer.Option("--timing", help="Show where the time of each stage went, for the driver and the workers.")
]


def command(
    run: Run,
    round_number: Round,
    by: By = None,
    every: Every = False,
    timing: Timing = False,
    json_output: Json = False,
) -> None:
    """Show one round as a whole, warnings first.

    It shows the funnel from prompts to kept pairs with reasons, distributions, the selection (what other metrics would have kept,
    groups), training and evaluation.
    """
    from selfplay.inspect.documents.show import show_document
    from selfplay.inspect.reading import open_store

    document = show_document(open_store(run), round_number, by, tables=not timing or json_output, quick=not every)
    write_document(document, _timing_text if timing else _text, as_json=json_output)


def _timing_text(document: dict[str, Any]) -> str:
    return f"{_head(document)}\n\n{timing_lines(document['timing'])}"


def timing_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A bar for the driver and for the workers of each role, stage by stage; all have one scale."""
    longest = max((sum(row["seconds"].values()) for row in rows), default=0.0)
    if not longest:
        return "no stage has recorded its time"
    shown = []
    for row in rows:
        seconds = row["seconds"]
        who = row["who"] if row["num_workers"] == 1 else f"{row['who']} x {row['num_workers']}"
        parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in PARTS if seconds[part] >= 0.005)
        shown.append([row["stage"], who, f"{sum(seconds.values()):.2f}", _bar(seconds, _WIDTH / longest), parts])
    legend = "   ".join(f"{letter} {part}" for part, letter in _LETTERS.items())
    return f"time of each stage, in seconds   ({legend})\n" + table(
        ["stage", "who", "s", "", ""], shown, left=(0, 1, 3, 4)
    )


def _bar(seconds: dict[str, float], letters_per_second: float) -> str:
    drawn, reached = "", 0.0
    for part in PARTS:
        reached += seconds[part] * letters_per_second
        drawn += _LETTERS[part] * (round(reached) - len(drawn))
    return drawn


def _head(document: dict[str, Any]) -> str:
    state = "" if document["complete"] else f" (not complete: {', '.join(document['stages'])} are committed)"
    return f"round {document['round']}{state}, {duration(document['seconds'])}"


def _text(document: dict[str, Any]) -> str:
    sections = [_head(document)]
    if document["warnings"]:
        sections.append("\n".join(warning_lines(document)))
    if document["funnel"]:
        sections.append("funnel\n" + _funnel(document["funnel"]))
    sections += [_distribution(name, found) for name, found in document["distributions"].items()]
    if document["engines"]:
        sections.append("\n".join(map(escape_terminal, document["engines"])))
    if document["selection"] is not None:
        sections.append(_numbers("selection", document["selection"], _SELECTION))
    if document["diagnostics"] is not None:
        sections += diagnostic_lines(document["diagnostics"])
    elif document["selection"] is not None and "prompts" in document["stages"]:  # a table of numbers has none
        sections.append("a large round: lengths, groups and what other metrics would keep are shown with --all")
    if document["training"] is not None:
        sections.append(_training(document["training"]))
    if document["evaluation"] is not None:
        sections.append(_evaluation(document["evaluation"]))
    if document["reward_parts"]:
        sections.append(_reward_parts(document["reward_parts"]))
    return "\n\n".join(sections)


def _reward_parts(parts: list[dict[str, Any]]) -> str:
    heading = ["part", "weight", "train/mean", "train/std", "held-out", "held-out,/greedy", "against the/round before"]
    names = ("weight", "train_mean", "train_std", "eval_mean", "eval_greedy_mean", "eval_change")
    rows = [[escape_terminal(part["name"]), *(number(part[name], 3) for name in names)] for part in parts]
    return "parts of the reward\n" + table(heading, rows)


def _funnel(steps: list[dict[str, Any]]) -> str:
    most = max(step["count"] for step in steps)
    rows = []
    for step in steps:
        lost = ", ".join(f"{reason} {count}" for reason, count in step["lost"].items())
        unit = "responses in no pair: " if step["step"] == "paired" and lost else ("dropped: " if lost else "")
        rows.append(
            [step["step"], str(step["count"]), step["unit"], bar(step["count"], most), escape_terminal(unit + lost)]
        )
    return table([], rows, left=(0, 2, 3, 4))


def _distribution(name: str, found: dict[str, Any]) -> str:
    moments = ", ".join(f"{key} {number(found[key])}" for key in ("mean", "std", "min", "median", "max"))
    most = max(row["count"] for row in found["histogram"])
    rows = []
    for row in found["histogram"]:
        drawn = bar(row["count"], most)
        if "num_kept" in row and row["count"]:
            kept = round(len(drawn) * row["num_kept"] / row["count"])
            drawn = "#" * kept + "." * (len(drawn) - kept)
        rows.append([number(row["low"]), number(row["high"]), str(row["count"]), drawn])
    legend = "   (# kept, . dropped)" if "num_kept" in found["histogram"][0] else ""
    seen = (
        f" (a sample of {found['num_seen']} of {found['num_rows']} rows)"
        if found["num_seen"] < found["num_rows"]
        else ""
    )
    return f"{name}: {found['count']} values{seen}, {moments}{legend}\n" + table(
        ["from", "to", "count", ""], rows, left=(3,)
    )


def _numbers(title: str, document: dict[str, Any], names: tuple[str, ...], prefix: str = "") -> str:
    rows = [[name.removeprefix(prefix), number(document[name], 4)] for name in names if document.get(name) is not None]
    return f"{title}\n" + table([], rows, left=(0, 1)) if rows else f"{title}: none"


def _training(training: dict[str, Any]) -> str:
    if training["skipped"]:
        return f"training\nskipped: the policy is that of round {training['policy_round']}"
    lines = [_numbers("training", training, _TRAINING)]
    if training["last_step"] is not None:
        last = training["last_step"]
        shown = ", ".join(f"{name} {number(last[name], 4)}" for name in _LAST_STEP)
        lines.append(f"last step: {shown}")
    lines += [f"note: {escape_terminal(text)}" for text in training["notes"]]
    return "\n".join(lines)


def _evaluation(evaluation: dict[str, Any]) -> str:
    lines = [_numbers("evaluation of the policy after this round", evaluation, _EVALUATION, "eval_")]
    for change in evaluation["weight_changes"]:
        error = change["canary_error"]
        canary = "no canary" if error is None else f"canary error {number(error, 5)} a token"
        reason = f", {change['reason']}" if change["reason"] else ""
        lines.append(escape_terminal(f"engine: {change['how']} in {change['seconds']:.2f} s, {canary}{reason}"))
    return "\n".join(lines)
