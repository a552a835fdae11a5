"""`selfplay diff RUN[@ROUND] RUN[@ROUND]`: what changed between two rounds, of one run or of two."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json
from selfplay.cli.pairs import messages_text
from selfplay.core.escape import escape_terminal
from selfplay.core.format import number, signed
from selfplay.core.terminal import clip, table, write_document

_LONGEST_CELL = 60


def command(
    a: Annotated[str, typer.Argument(metavar="RUN[@ROUND]", help="RUN@ROUND; without @ROUND the newest round.")],
    b: Annotated[
        str, typer.Argument(metavar="RUN[@ROUND]", help="The round to compare with; @ROUND: of the same run.")
    ],
    kind: Annotated[
        str | None,
        typer.Option("--responses", metavar="KIND", help="held-out (default, if both rounds have them) or training."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of prompts to show, the largest change first.")] = 10,
    content: Annotated[bool, typer.Option("--content", help="Also show prompts and responses.")] = False,
    json_output: Json = False,
) -> None:
    """Show what changed between two rounds, of one run or of two.

    Settings, numbers, and the responses to the same prompts: the held-out prompts are the same in every round. A change is
    the second minus the first.
    """
    from selfplay.inspect.documents.diff import diff_document, parse_side

    one = parse_side(a)
    document = diff_document(one, parse_side(b, one), kind=kind, limit=limit, content=content)
    write_document(document, lambda found: _text(found, content), as_json=json_output)


def _text(document: dict[str, Any], content: bool) -> str:
    sides = "\n".join(
        f"{name}: {escape_terminal(document[name]['run'])}, round {document[name]['round']}" for name in ("a", "b")
    )
    sections = [sides]
    if document["a"]["run"] != document["b"]["run"]:
        sections.append(_config(document["config"]))
    rows = [
        [row["name"], number(row["a"]), number(row["b"]), "" if row["change"] is None else signed(row["change"])]
        for row in document["metrics"]
    ]
    sections.append("numbers\n" + table(["", "a", "b", "change"], rows))
    if document["responses"] is None:
        sections.append("the two rounds have no responses in common")
    else:
        sections += _responses(document["responses"], content)
    return "\n\n".join(sections)


def _config(changes: list[dict[str, Any]]) -> str:
    if not changes:
        return "settings: no differences"
    rows = [[escape_terminal(row["name"]), _setting(row["a"]), _setting(row["b"])] for row in changes]
    return "settings that differ\n" + table(["", "a", "b"], rows, left=(0, 1, 2))


def _setting(value: Any) -> str:
    return clip(escape_terminal(json.dumps(value, ensure_ascii=False)), _LONGEST_CELL)


def _responses(found: dict[str, Any], content: bool) -> list[str]:
    judge = "gold reward" if found["judge"] == "gold" else "reward"
    only = [f"{found[f'num_only_{side}']} only in {side}" for side in "ab" if found[f"num_only_{side}"]]
    missing = f" ({', '.join(only)})" if only else ""
    lines = [f"{found['kind']} responses to the same {found['num_prompts']} prompts{missing}, by {judge}"]
    if found["change_mean"] is not None:
        low, high = found["change_ci_low"], found["change_ci_high"]
        interval = f" [{signed(low)}, {signed(high)}] (95 % interval)" if low is not None else ""
        lines.append(
            f"better on {found['num_better']}, worse on {found['num_worse']}, equal on {found['num_equal']}; "
            f"mean change {signed(found['change_mean'])}{interval}"
        )
    if not found["prompts"]:
        return ["\n".join(lines)]
    lines.append("the largest changes")
    if content:
        return ["\n".join(lines), *(_with_content(prompt) for prompt in found["prompts"])]
    rows = [
        [escape_terminal(prompt["prompt_id"]), number(prompt["a"]), number(prompt["b"]), signed(prompt["change"])]
        for prompt in found["prompts"]
    ]
    return ["\n".join([*lines, table(["prompt_id", "a", "b", "change"], rows)])]


def _with_content(prompt: dict[str, Any]) -> str:
    lines = [
        f"== {escape_terminal(prompt['prompt_id'])}: {number(prompt['a'])} -> {number(prompt['b'])} ({signed(prompt['change'])})"
    ]
    lines += messages_text(prompt["messages"] or [])
    for side in "ab":
        for response in prompt[f"responses_{side}"]:
            gold = "" if response["gold_reward"] is None else f", gold {number(response['gold_reward'])}"
            mode = "" if response["mode"] is None else f"{escape_terminal(response['mode'])} "
            lines.append(
                f"-- {side}, {mode}response {response['response_index']}: reward {number(response['reward'])}{gold}, "
                f"{response['num_tokens']} tokens"
            )
            lines.append(escape_terminal(response["text"], lines=True))
    return "\n".join(lines)
