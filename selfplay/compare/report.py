"""The output of a comparison: its tables (terminal and report.md), results.json, results.csv and the plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.format import markdown_table, percent, signed
from selfplay.inspect.web.charts import Curve, Point, line_chart, standalone
from selfplay.store.durable import pretty_json, write_file

Document = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text cells; `/` in a heading breaks its line. `notes` stand below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def write_results(document: Document, out: Path) -> None:
    """results.json, results.csv, report.md and the plots, anew from the document."""
    write_file(out / "results.json", pretty_json(document))
    write_file(out / "results.csv", rows_csv(document["rows"]).encode())
    plots = charts(document)
    for name, drawing in plots.items():
        write_file(out / name, drawing.encode())
    write_file(out / "report.md", markdown(document, list(plots)).encode())


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV; an empty cell is null."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


# ---------------------------------------------------------------------- tables


def tables(document: Document) -> list[Table]:
    """Everything that is shown, in order."""
    found = []
    for equal in document["equal"]:
        found += [
            _final(document, equal),
            _by_round(document, equal, over_control=True),
            _by_round(document, equal, over_control=False),
        ]
    return [table for table in [*found, _overlap(document), _groups(document), _failed(document)] if table.rows]


def _judge_name(document: Document) -> str:
    return "gold reward" if document["judge"] == "gold" else "reward of the model that was trained on"


def _final(document: Document, equal: str) -> Table:
    rounds = document["rounds"]
    rows = [row for row in document["summary"] if row["equal"] == equal and row["round"] == rounds]
    judge = document["judge"]
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("arm", lambda row: str(row["arm"])),
        ("blocks", lambda row: str(row["num_blocks"])),
        ("sampled", lambda row: plus_minus(row[f"{judge}_mean"])),
        (f"over/{document['control']}", lambda row: interval(row["difference"])),
        ("blocks/above", lambda row: above(row["difference"])),
        ("greedy", lambda row: plus_minus(row.get(f"{judge}_greedy_mean"))),
        (f"greedy over/{document['control']}", lambda row: interval(row["difference_greedy"])),
        ("reward/gain, sd", lambda row: plus_minus(row["reward_gain"], 2)),
        ("gold/gain, sd", lambda row: plus_minus(row["gold_gain"], 2)),
        ("over-opti-/mization", lambda row: plus_minus(row["over_optimization"], 2)),
        ("tokens", lambda row: plain(row["num_tokens_mean"], 1)),
        ("trun-/cated", lambda row: share(row["truncated_fraction"])),
        ("dis-/tinct", lambda row: share(row["distinct_fraction"])),
        ("steps", lambda row: plain(row["optimizer_steps"], 1)),
        ("kept", lambda row: plain(row["num_kept"], 0)),
        ("wrong/labels", lambda row: share(row["wrong_labels"])),
    ]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    used = [column for column in range(len(columns)) if column == 0 or any(row[column] != "-" for row in cells)]
    notes = [
        f"held-out {_judge_name(document)} of the policy after round {rounds}; mean ± standard error over blocks (config, seed); "
        "over: paired by block and prompt, with Student's 95 % interval over blocks",
        "gain, sd: over round 0, in standard deviations of round 0; over-optimization: the reward's gain less the gold's",
    ]
    if (found := [row for row in rows if row["difference_over_worlds"]]) and document["control"]:
        shown = "; ".join(f"{row['arm']} {interval(row['difference_over_worlds'])}" for row in found)
        notes.append(f"each of {len(document['worlds'])} worlds counted once: {shown}")
    steps = f", {_steps(document)} optimizer steps a round" if equal == "steps" else ""
    return Table(
        f"after round {rounds}, equal {equal}{steps}",
        [columns[column][0] for column in used],
        [[row[column] for column in used] for row in cells],
        notes,
    )


def _steps(document: Document) -> str:
    return " / ".join(str(steps) for steps in sorted(set(document["steps"].values())))


def _by_round(document: Document, equal: str, *, over_control: bool) -> Table:
    """The judge's mean of every arm by round, or its difference from the control."""
    name = "difference" if over_control else f"{document['judge']}_mean"
    rounds = range(1 if over_control else 0, document["rounds"] + 1)
    found = {(row["arm"], row["round"]): row[name] for row in document["summary"] if row["equal"] == equal}
    rows = [
        [arm["name"], *(plus_minus(found.get((arm["name"], number)), sign=over_control) for number in rounds)]
        for arm in document["arms"]
        if any(found.get((arm["name"], number)) for number in rounds)
    ]
    judge = _judge_name(document)
    title = (
        f"sampled {judge} over {document['control']} by round"
        if over_control
        else f"held-out {judge}, sampled, by round"
    )
    notes = ["mean ± standard error over blocks"]
    return Table(f"{title}, equal {equal}", ["arm", *(f"round {number}" for number in rounds)], rows, notes)


def _overlap(document: Document) -> Table:
    names = [arm["name"] for arm in document["arms"]]
    found = {(row["arm"], row["other"]): row for row in document["overlap"]}
    present = [name for name in names if any(name in pair for pair in found)]
    rows = [
        [name, *("·" if name == other else share(found.get((name, other)), "share") for other in present)]
        for name in present
    ]
    return Table(
        "kept in round 1 from the same pool: share of the row's pairs that the column keeps too",
        ["arm", *(name.replace("/", "|") for name in present)],
        rows,
        [],
    )


def _groups(document: Document) -> Table:
    groups = sorted({row["group"] for row in document["groups"]})
    found = {(row["arm"], row["group"]): row for row in document["groups"]}
    rows = [
        [arm["name"], *(share(found.get((arm["name"], group)), "kept") for group in groups)]
        for arm in document["arms"]
        if any((arm["name"], group) in found for group in groups)
    ]
    if rows:
        pool = next(arm["name"] for arm in document["arms"] if (arm["name"], groups[0]) in found)
        rows.append(["(all pairs)", *(share(found[pool, group], "pool") for group in groups)])
    return Table(f"share of each {document['by']} among the pairs kept in round 1", ["arm", *groups], rows, [])


def _failed(document: Document) -> Table:
    rows = [
        [row["block"], row["arm"], row["equal"], str(row["rounds_done"]), " ".join(row["reason"].split())]
        for row in document["failed"]
    ]
    notes = ["--retry-failed tries them again; their finished rounds are in the tables by round"]
    return Table("failed", ["block", "arm", "equal", "rounds done", "reason"], rows, notes if rows else [])


# ---------------------------------------------------------------------- cells


def plus_minus(mean: Row | None, digits: int = 3, *, sign: bool = False) -> str:
    """Mean ± standard error; of a difference with its sign."""
    if mean is None:
        return "-"
    shown = signed(mean["mean"], digits) if sign else f"{mean['mean']:.{digits}f}"
    return shown + (f" ± {mean['se']:.{digits}f}" if mean["se"] is not None else "")


def interval(mean: Row | None) -> str:
    """A difference with its interval."""
    if mean is None:
        return "-"
    bounds = f" [{signed(mean['low'])}, {signed(mean['high'])}]" if mean["low"] is not None else ""
    return signed(mean["mean"]) + bounds


def above(mean: Row | None) -> str:
    """How many blocks are above 0."""
    return "-" if mean is None else f"{mean['num_above']}/{mean['num']}"


def plain(mean: Row | None, digits: int) -> str:
    """The mean alone."""
    return "-" if mean is None else f"{mean['mean']:.{digits}f}"


def share(row: Row | None, name: str = "mean") -> str:
    """A fraction."""
    return percent(None if row is None else row[name])


# ---------------------------------------------------------------------- report and plots


def charts(document: Document) -> dict[str, str]:
    """SVG by file name: the judge's reward by round, and over the control, for each budget."""
    drawings = {}
    for equal in document["equal"]:
        for name, column, title in (
            ("reward", f"{document['judge']}_mean", f"held-out {_judge_name(document)} by round, equal {equal}"),
            ("difference", "difference", f"{_judge_name(document)} over {document['control']}, equal {equal}"),
        ):
            curves = []
            for arm in document["arms"]:
                points = [
                    Point(row["round"], mean["mean"], mean["low"], mean["high"])
                    for row in document["summary"]
                    if (row["equal"], row["arm"]) == (equal, arm["name"])
                    and (mean := row[column]) is not None
                    and (column != "difference" or row["round"])
                ]
                if points:
                    curves.append(Curve(arm["name"], points))
            if curves:
                chart = line_chart(
                    f"{name}-{equal}", title, curves, x_title="round", y_title=_judge_name(document),
                    baseline=0.0 if name == "difference" else None, height=300, named=True,
                )  # fmt: skip
                drawings[f"{name}-{equal}.svg"] = standalone(chart, title, "95 % t-interval over blocks")
    return drawings


def markdown(document: Document, plots: Sequence[str]) -> str:
    """report.md."""
    done = f"{document['num_done']} of {document['num_runs']} runs are complete"
    lines = [
        "# Comparison",
        "",
        f"{len(document['arms'])} arms, {len(document['worlds'])} configs, {document['num_seeds']} seeds, "
        f"{document['rounds']} rounds; {done}"
        + (f", {len(document['failed'])} failed." if document["failed"] else "."),
        f"Judge: {_judge_name(document)}. Control: {document['control']}.",
        "",
        *(f"- {arm['name']}: `{' '.join(arm['overrides'])}`" for arm in document["arms"]),
    ]
    for table in tables(document):
        lines += [
            "",
            f"## {table.title}",
            "",
            markdown_table(
                [heading.replace("-/", "").replace("/", " ") for heading in table.header],
                [[cell.replace("|", "\\|") for cell in row] for row in table.rows],
            ).rstrip(),
            *("" if not table.notes else [""]),
            *table.notes,
        ]
    for name in plots:
        lines += ["", f"![{name}]({name})"]
    return "\n".join(lines) + "\n"
