"""The diagnostics of a selection as text for a terminal: shared by `show` and `select`.

The documents are `dataclasses.asdict` of `selfplay.selection.diagnostics.records.Diagnostics`, or their JSON; parts that a
document does not have are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.core.escape import escape_terminal
from selfplay.core.format import number, percent, signed
from selfplay.core.terminal import bar, table

Document = Mapping[str, Any]


def diagnostic_lines(document: Document) -> list[str]:
    """Blocks of text, in reading order; warnings aside (see `warning_lines`)."""
    blocks = []
    if document.get("funnel") is not None:
        blocks.append("funnel\n" + _funnel(document["funnel"]))
    if document.get("distributions"):
        blocks.append(_heading("distributions", document) + "\n" + _distributions(document["distributions"]))
    if rows := _margins(document):
        blocks.append(_heading("pool and kept pairs", document) + "\n" + table([], rows, left=(0, 1)))
    if document.get("overlaps"):
        blocks.append(_overlaps(document))
    return [*blocks, *(_groups(name, found) for name, found in document.get("groups", {}).items())]


def warning_lines(document: Document) -> list[str]:
    """Two lines for each warning: what is wrong, and what to do."""
    return [
        f"WARNING {warning['name']}: {escape_terminal(warning['message'])}\n  -> {escape_terminal(warning['hint'])}"
        for warning in document["warnings"]
    ]


def _heading(title: str, document: Document) -> str:
    return title if document["on"] == "all" else f"{title} (of a sample of {document['num_seen']} pairs)"


def _funnel(funnel: Document) -> str:
    steps: list[tuple[str, Any, Document]] = [
        ("read", funnel["num_read"], {}),
        ("pairs", funnel["num_pairs"], funnel["bad"]),
        ("entered the ranking", funnel["num_pool"], funnel["filtered"]),
        ("ranked", funnel["num_ranked"], funnel["left_out"]),
        ("kept", funnel["num_kept"], {}),
    ]
    steps = [step for step in steps if step[1] is not None]
    most = max(count for _, count, _ in steps)
    rows = []
    for name, count, lost in steps:
        without = ", ".join(
            f"{reason} {num}" for reason, num in sorted(lost.items(), key=lambda one: (-one[1], one[0]))
        )
        rows.append([name, str(count), bar(count, most), escape_terminal(f"dropped: {without}" if without else "")])
    return table([], rows, left=(0, 2, 3))


def _distributions(distributions: Document) -> str:
    header = ["", "pairs", "mean", "std", "5 %", "median", "95 %", "kept:/mean", "/5 %", "/median", "/95 %"]
    rows = []
    for name, found in distributions.items():
        pool, kept = found["pool"], found["kept"]
        quantiles, of_kept = pool["quantiles"], kept["quantiles"] or {}
        rows.append(
            [
                name, str(pool["num"]), number(pool["mean"]), number(pool["std"]),
                *(number(quantiles[at]) for at in ("0.05", "0.5", "0.95")),
                number(kept["mean"]), *(number(of_kept.get(at)) for at in ("0.05", "0.5", "0.95")),
            ]
        )  # fmt: skip
    return table(header, rows)


def _margins(document: Document) -> list[list[str]]:
    rows: list[list[str]] = []
    if (margins := document.get("margins")) is not None:
        if margins["explicit_mean"] is not None:
            negative = _with_kept(margins, "explicit_negative")
            rows.append(
                ["explicit margin", f"{_spread(margins, 'explicit')}; chosen has the lower reward in {negative}"]
            )
        if margins["implicit_mean"] is not None:
            likelier = f"rejected is more likely under the policy in {percent(margins['implicit_negative'])}"
            rows.append(["implicit margin", f"{_spread(margins, 'implicit')}; {likelier}"])
            tail = margins["implicit_abs_tail"]
            far = "" if tail is None else f"; 95 % quantile {tail:.1f} times the median (normal around 0: 2.9)"
            rows.append(["  its size", _spread(margins, "implicit_abs") + far])
        if (raw := margins["explicit_and_implicit"]) is not None:
            size = margins["explicit_and_implicit_abs"]
            rows.append(
                ["correlation", f"explicit with implicit {_correlation(raw)}; with its size {_correlation(size)}"]
            )
        if (explicit := margins["potential_explicit_share"]) is not None:
            beta = "" if margins["effective_beta"] is None else f"effective beta {number(margins['effective_beta'])}; "
            implicit = percent(margins["potential_implicit_share"])
            rows.append(
                ["alignment potential", f"{beta}variance from explicit {percent(explicit)}, implicit {implicit}"]
            )
    if (lengths := document.get("lengths")) is not None:
        gap = f"{signed(lengths['gap_mean_pool'], 1)} tokens (kept {signed(lengths['gap_mean_kept'], 1)})"
        found = lengths["gap_and_explicit"]
        follows = "" if found is None else f"; correlation with the explicit margin {_correlation(found)}"
        rows.append(["length gap", f"{gap}; chosen longer in {_with_kept(lengths, 'chosen_longer')}{follows}"])
    if (labels := document.get("labels")) is not None:
        judged = f"{labels['num_judged_pool']} pairs, {labels['num_judged_kept']} kept"
        rows.append(["wrong labels by gold", f"{_with_kept(labels, 'wrong')} of {judged}"])
    if (prompts := document.get("prompts")) is not None:
        most = f"at most {prompts['most_kept_pairs']} kept of one prompt"
        rows.append(["prompts", f"{prompts['num_pool']} (kept {prompts['num_kept']}); {most}"])
    if (cut := document.get("cut")) is not None:
        tied = f"pairs with this value: {cut['num_tied']} (kept {cut['num_tied_kept']})"
        rows.append(["value at the cut", f"{number(cut['value'], 4)}; {tied}"])
    return rows


def _spread(margins: Document, name: str) -> str:
    return f"mean {number(margins[f'{name}_mean'])}, std {number(margins[f'{name}_std'])}"


def _with_kept(found: Document, name: str) -> str:
    return f"{percent(found[f'{name}_pool'])} (kept {percent(found[f'{name}_kept'])})"


def _overlaps(document: Document) -> str:
    rows = [
        [found["metric"], percent(found["share"]), percent(found["expected_at_random"]), number(found["jaccard"], 2),
         str(found["num_kept"])]
        for found in document["overlaps"]
    ]  # fmt: skip
    header = ["metric", "keeps too", "at random", "jaccard", "keeps"]
    return _heading("kept pairs that other metrics would keep too", document) + "\n" + table(header, rows)


def _groups(name: str, found: Document) -> str:
    rows = [
        [
            escape_terminal(share["group"]), str(share["num_pool"]), percent(share["share_pool"]), str(share["num_kept"]),
            percent(share["share_kept"]), number(share["ratio"], 2), bar(share["num_kept"], found["shares"][0]["num_pool"]),
        ]
        for share in found["shares"]
    ]  # fmt: skip
    lines = [
        f"groups by {escape_terminal(name)}: {found['num_groups']}, of which {found['num_groups_kept']} have kept pairs"
    ]
    if found["unevenness"] is not None:
        diverse = f"{found['effective_kept']:.1f} equal groups (pool {found['effective_pool']:.1f})"
        random = found["unevenness_random_q99"]
        chance = (
            ""
            if random is None
            else f" (random: mean {found['unevenness_random_mean']:.1%}, 99 of 100 below {random:.1%})"
        )
        lines.append(f"the kept pairs are as diverse as {diverse}; uneven by {found['unevenness']:.1%}{chance}")
    lines.append(table(["group", "pool", "", "kept", "", "ratio", ""], rows, left=(0, 6)))
    if found["num_groups"] > len(rows):
        lines.append(f"and {found['num_groups'] - len(rows)} smaller groups")
    return "\n".join(lines)


def _correlation(found: Document) -> str:
    return f"{signed(found['pearson'], 2)} (of ranks {signed(found['spearman'], 2)})"
