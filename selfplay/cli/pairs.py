"""`selfplay pairs RUN ROUND`: a page of a round's pairs; their text only on request."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Round, Run
from selfplay.cli.terminal import clip, note, number, safe_text, table, write, write_json

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
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to sort by; by rank if not given.")] = None,
    descending: Annotated[
        bool | None, typer.Option("--descending/--ascending", help="Measures come highest first if not said.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many pairs to show.")] = 20,
    kept: Annotated[bool | None, typer.Option("--kept/--dropped", help="Only kept, or only dropped pairs.")] = None,
    content: Annotated[bool, typer.Option("--content", help="With prompt, chosen and rejected text.")] = False,
    json_output: Json = False,
) -> None:
    """List the pairs of a round, best first.

    What ranked them, which were kept, and why the others were not; text with --content.
    """
    from selfplay.inspect.pairs import pairs_document
    from selfplay.store.run import Store

    document = pairs_document(
        Store.open(run), round_number, sort=sort, descending=descending, limit=limit, kept=kept, content=content
    )
    if json_output:
        write_json(document)
        return
    pairs = document["pairs"]
    if not pairs:
        note(f"no such pair: round {round_number} has {document['num_pairs']} pairs, {document['num_matching']} match")
        return
    write("\n\n".join(_with_content(pair) for pair in pairs) if content else _table(pairs, sort))
    note(f"{len(pairs)} of {document['num_matching']} pairs shown; all about one: selfplay pair {run} PAIR_ID")


def _table(pairs: list[dict[str, Any]], sort: str | None) -> str:
    columns = [*_SHOWN, *([sort] if sort is not None and sort not in _SHOWN else [])]
    rows = [[clip(number(pair[column]), _LONGEST_CELL) for column in columns] for pair in pairs]
    # ids are shown whole: they are what `pair` is given
    for row, pair in zip(rows, pairs, strict=True):
        row[columns.index("pair_id")] = safe_text(pair["pair_id"])
    left = (columns.index("pair_id"), columns.index("drop_reason"))
    return table([_HEADINGS.get(column, column) for column in columns], rows, left=left)


def _with_content(pair: dict[str, Any]) -> str:
    outcome = "kept" if pair["kept"] else f"dropped: {safe_text(pair['drop_reason'])}"
    numbers = ", ".join(f"{name} {number(pair[name])}" for name in ("rank", *_MARGINS))
    lines = [f"== {safe_text(pair['pair_id'])} ({outcome}; {numbers})", *messages_text(pair["prompt"])]
    for side in ("chosen", "rejected"):
        lines.append(f"-- {side}, reward {number(pair[f'reward_{side}'])}, {pair[f'num_tokens_{side}']} tokens")
        lines.append(safe_text(pair[side][0]["content"], lines=True))
    return "\n".join(lines)


def messages_text(messages: list[dict[str, str]]) -> list[str]:
    """A conversation, turn by turn, as lines for a terminal."""
    lines = []
    for turn in messages:
        lines += [f"-- {safe_text(turn['role'])}", safe_text(turn["content"], lines=True)]
    return lines
