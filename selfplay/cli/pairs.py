"""`selfplay pairs RUN ROUND`: a page of a round's pairs; their text only on request."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Round, Run
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import clip, note, table, write, write_json

_SHOWN = (
    "rank", "pair_id", "kept", "explicit_margin", "implicit_margin", "alignment_potential", "reward_chosen",
    "reward_rejected", "num_tokens_chosen", "num_tokens_rejected", "drop_reason",
)  # fmt: skip
_HEADINGS = {
    "explicit_margin": "explicit/margin",
    "implicit_margin": "implicit/margin",
    "alignment_potential": "alignment/potential",
    "reward_chosen": "reward/chosen",
    "reward_rejected": "reward/rejected",
    "num_tokens_chosen": "tokens/chosen",
    "num_tokens_rejected": "tokens/rejected",
    "drop_reason": "drop/reason",
    "metric_value": "metric/value",
}
_MARGINS = ("explicit_margin", "implicit_margin", "alignment_potential")
_LONGEST_CELL = 60


def command(
    run: Run,
    round_number: Round,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION", help="An SQL condition: 'alignment_potential > 1 AND NOT kept', 'rank <= 10'."
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to sort by. Default: the rank.")] = None,
    descending: Annotated[
        bool | None, typer.Option("--descending/--ascending", help="Sort order. Default: highest first for measures.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of pairs to show.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Number of pairs to skip.")] = 0,
    kept: Annotated[bool | None, typer.Option("--kept/--dropped", help="Show only kept or only dropped pairs.")] = None,
    content: Annotated[bool, typer.Option("--content", help="Also show prompt, chosen and rejected.")] = False,
    json_output: Json = False,
) -> None:
    """List the pairs of a round, best first.

    Shows what ranked them, which were kept, and why the others were not; the texts with --content. --where takes what follows
    WHERE in SQL, over any column: chosen ILIKE '%sorry%', length(rejected) > 500, num_tokens_chosen > 2 * num_tokens_rejected.
    """
    from selfplay.inspect.documents.pairs import pairs_document
    from selfplay.inspect.reading import open_store

    document = pairs_document(
        open_store(run), round_number, where=where, sort=sort, descending=descending, limit=limit, offset=offset,
        kept=kept, content=content,
    )  # fmt: skip
    if json_output:
        write_json(document)
        return
    pairs = document["pairs"]
    if not pairs:
        past = f"; the page starts after {offset}" if offset else ""
        note(f"no pairs to show: {document['num_matching']} of {document['num_pairs']} pairs match{past}")
        return
    write("\n\n".join(_with_content(pair) for pair in pairs) if content else _table(pairs, sort))
    shown = f"{offset + 1} to {offset + len(pairs)}" if offset else f"{len(pairs)}"
    of = f" that match (of {document['num_pairs']})" if document["num_matching"] < document["num_pairs"] else ""
    one = escape_terminal(shell_command("pair", run, "PAIR_ID"))
    note(f"{shown} of {document['num_matching']} pairs{of} shown; for one in full: {one}")


def _table(pairs: list[dict[str, Any]], sort: str | None) -> str:
    columns = [*_SHOWN, *([sort] if sort is not None and sort not in _SHOWN else [])]
    rows = [[clip(number(pair[column]), _LONGEST_CELL) for column in columns] for pair in pairs]
    # ids are shown whole: they are what `pair` is given
    for row, pair in zip(rows, pairs, strict=True):
        row[columns.index("pair_id")] = escape_terminal(pair["pair_id"])
    left = (columns.index("pair_id"), columns.index("drop_reason"))
    return table([_HEADINGS.get(column, column) for column in columns], rows, left=left)


def _with_content(pair: dict[str, Any]) -> str:
    outcome = "kept" if pair["kept"] else f"dropped: {escape_terminal(pair['drop_reason'])}"
    numbers = ", ".join(f"{name} {number(pair[name])}" for name in ("rank", *_MARGINS))
    lines = [f"== {escape_terminal(pair['pair_id'])} ({outcome}; {numbers})", *messages_text(pair["prompt"] or [])]
    for side in ("chosen", "rejected"):
        tokens = pair[f"num_tokens_{side}"]
        lines.append(
            f"-- {side}, reward {number(pair[f'reward_{side}'])}" + (f", {tokens} tokens" if tokens is not None else "")
        )
        lines += [escape_terminal(turn["content"], lines=True) for turn in pair[side] or []]
    return "\n".join(lines)


def messages_text(messages: list[dict[str, str]]) -> list[str]:
    """A conversation, turn by turn, as lines for a terminal."""
    lines = []
    for turn in messages:
        lines += [f"-- {escape_terminal(turn['role'])}", escape_terminal(turn["content"], lines=True)]
    return lines
