"""`selfplay pair RUN PAIR_ID`: one pair, its prompt, and all the responses of that prompt."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.cli.pairs import messages_text
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import table, write_document

_NUMBERS = (
    "explicit_margin", "implicit_margin", "alignment_potential", "metric_value", "policy_logp_chosen",
    "policy_logp_rejected", "reference_logp_chosen", "reference_logp_rejected",
)  # fmt: skip

_RESPONSE = (("gold", "gold_reward"), ("policy log-prob", "policy_logp"), ("reference log-prob", "reference_logp"))


def command(
    run: Run,
    pair_id: Annotated[str, typer.Argument(metavar="PAIR_ID", help="Id of a pair, as `pairs` lists it.")],
    json_output: Json = False,
) -> None:
    """Show one pair with all responses of its prompt.

    Rewards, log-probs, how each response was used, and the pair's numbers. Dropped pairs are found too.
    """
    from selfplay.inspect.documents.pair import pair_document
    from selfplay.inspect.reading import open_store

    write_document(pair_document(open_store(run), pair_id), _text, as_json=json_output)


def _text(document: dict[str, Any]) -> str:
    from selfplay.core.records import part_columns

    pair, prompt = document["pair"], document["prompt"]
    outcome = "kept" if pair["kept"] else f"dropped ({escape_terminal(pair['drop_reason'])})"
    lines = [
        f"pair {escape_terminal(pair['pair_id'])} of round {document['round']}: {outcome}, rank {number(pair['rank'])}",
        *(f"  {name} {number(pair[name], 4)}" for name in _NUMBERS if pair[name] is not None),
    ]
    if prompt is not None:
        source = f"{escape_terminal(prompt['source_file'])} row {prompt['source_row']}"
        heading = ", ".join(["== prompt", *_tokens(prompt["num_prompt_tokens"]), f"from {source}"])
        lines += ["", heading, *messages_text(prompt["messages"])]
    for response in document["responses"]:
        reason = f" ({escape_terminal(response['reason'])})" if response["reason"] else ""
        use = response["use"].replace("_", " ")
        parts = [f"{name.removeprefix('reward_')} {number(response[name], 4)}" for name in part_columns(response)]
        facts = [f"reward {number(response['reward'], 4)}" + (f" ({', '.join(parts)})" if parts else "")]
        facts += [f"{label} {number(response[name], 4)}" for label, name in _RESPONSE if response[name] is not None]
        facts += _tokens(response["num_tokens"])
        if response["finish_reason"] is not None:
            facts.append(f"ended by {escape_terminal(response['finish_reason'])}")
        lines += [
            "",
            f"== response {response['response_index']}: {use}{reason}, {', '.join(facts)}",
            escape_terminal(response["text"], lines=True),
        ]
    if document["other_pairs"]:
        lines += ["", "== other pairs of this prompt", _others(document)]
    return "\n".join(lines)


def _tokens(count: int | None) -> list[str]:
    """A length as a fact; none where nobody counted."""
    return [] if count is None else [f"{count} tokens"]


def _others(document: dict[str, Any]) -> str:
    index = {response["response_id"]: str(response["response_index"]) for response in document["responses"]}
    rows = [
        [
            escape_terminal(other["pair_id"]), index[other["chosen_response_id"]], index[other["rejected_response_id"]],
            number(other["explicit_margin"]), number(other["alignment_potential"]), number(other["rank"]),
            "kept" if other["kept"] else f"dropped ({escape_terminal(other['drop_reason'])})",
        ]
        for other in document["other_pairs"]
    ]  # fmt: skip
    header = ["pair_id", "chosen", "rejected", "explicit/margin", "alignment/potential", "rank", "outcome"]
    return table(header, rows, left=(0, 6))
